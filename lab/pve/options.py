"""Command lines as the real commands read them: with Perl's Getopt::Long, then checked against a schema.

Options may stand anywhere before `--`, be shortened as long as that is clear, begin with one or two
hyphens and be in any case; a boolean takes the next word unless that begins with a hyphen
(pve-common, PVE/JSONSchema.pm, get_options).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.pve.errors import ParameterError
from lab.pve.schema import Rule, truth

REST = "extra-args"  # the last argument of a command that takes any number of words
Given = dict[str, str]


class Command:
    """What a command takes.

    Attributes:
        prefix: The words that it begins with.
        arguments: Its arguments in their order; all are needed but the rest.
        rules: What its arguments and options may be.
        tail: What stands behind [OPTIONS] in its usage.
    """

    def __init__(self, prefix: str, arguments: Sequence[str], rules: Mapping[str, Rule], tail: str = "") -> None:
        self.prefix = prefix
        self.arguments = arguments
        self.rules = rules
        self.tail = tail

    @property
    def usage(self) -> str:
        """How it is called, as the real commands end their complaints."""
        words = [self.prefix, *(f"[<{name}>]" if name == REST else f"<{name}>" for name in self.arguments)]
        words += ["[OPTIONS]"] if any(name not in self.arguments for name in self.rules) else []
        return " ".join([*words, *self.tail.split()])

    def refusal(self, message: str) -> ParameterError:
        """A refusal of the command line that ends with the usage."""
        return ParameterError(f"{message}\n{self.usage}")

    def wrong(self, complaints: Mapping[str, str]) -> ParameterError:
        """A refusal of values."""
        lines = "\n".join(f"{name}: {said}" for name, said in complaints.items())
        return self.refusal(f"400 Parameter verification failed.\n{lines}")

    def parse(self, words: Sequence[str]) -> tuple[Given, list[str]]:
        """Read the words behind the command.

        Returns:
            Its arguments and options by name, and the rest of the words if it takes any number.

        Raises:
            ParameterError: A word is missing, not known or not usable; in the real words.
        """
        plain, given, problems = split(words, self.rules)
        if problems:
            raise self.refusal("\n".join([*problems, "400 unable to parse option"]))
        names = [name for name in self.arguments if name != REST]
        if len(plain) < len(names):
            raise self.refusal("400 not enough arguments")
        rest = plain[len(names) :]
        if rest and REST not in self.arguments:
            raise self.refusal("400 too many arguments")
        given.update(zip(names, plain, strict=False))
        self._settle_booleans(given)
        if said := {n: c for n, value in given.items() if (c := self.rules[n].complaint(value, n))}:
            raise self.wrong(said)
        return given, rest

    def _settle_booleans(self, given: Given) -> None:
        for name, value in given.items():
            if self.rules[name].kind == "boolean":
                meant = truth(value or "1")
                if meant is None:
                    raise self.refusal("400 unable to parse boolean option")
                given[name] = str(int(meant))


def split(words: Sequence[str], rules: Mapping[str, Rule]) -> tuple[list[str], Given, list[str]]:
    """Separate arguments from options.

    Returns:
        The plain words, the options by their whole names, and what Getopt::Long says is wrong.
    """
    plain: list[str] = []
    given: Given = {}
    problems: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            plain += rest
            break
        if not word.startswith("-") or word == "-":
            plain.append(word)
            continue
        typed, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
        name, problem = _resolve(typed, rules)
        if not problem and not equals:
            value, problem = _value(name, rules[name].kind == "boolean", rest)
        elif not problem and not value and rules[name].kind != "boolean":
            problem = f"Option {name} requires an argument"
        if problem:
            problems.append(problem)
        else:
            listed = rules[name].listed and name in given
            given[name] = f"{given[name]},{value}" if listed else value
    return plain, given, problems


def _resolve(typed: str, rules: Mapping[str, Rule]) -> tuple[str, str]:
    """The whole name of an option, or what is wrong with it."""
    low = typed.lower()
    names = [name for name in rules if name != REST and name.lower().startswith(low)] if low else []
    exact = [name for name in names if name.lower() == low]
    if len(exact or names) == 1:
        return (exact or names)[0], ""
    return "", f"Option {typed} is ambiguous ({', '.join(sorted(names))})" if names else f"Unknown option: {typed}"


def _value(name: str, boolean: bool, rest: list[str]) -> tuple[str, str]:
    """The value of an option from the words that follow, or what is wrong."""
    if boolean:
        takes = rest and (rest[0] == "-" or not rest[0].startswith("-"))
        return rest.pop(0) if takes else "", ""
    return (rest.pop(0), "") if rest else ("", f"Option {name} requires an argument")


def true(given: Mapping[str, str], name: str) -> bool:
    """Whether an option is given and means yes."""
    return given.get(name) == "1"
