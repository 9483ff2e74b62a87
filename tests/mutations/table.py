"""The table of checks and their facts: each fact spoilt in each way, and what the check made of it."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from zlib import crc32

from fixtures.base.errors import BuildError
from tests.mutations.mutate import FIELD_WAYS, WHOLE, Change, field_change, fields
from tests.mutations.trial import EARLIER, Bench, Check, Spoiler, Trial, checks, states
from tests.mutations.world import Answer

WAYS = (*WHOLE, "stale")


@dataclass(frozen=True)
class Cell:
    """What became of a check.

    Attributes:
        outcome: "passed", "failed", "skipped", "inconclusive", "raised" where it ended with an error of Python, or
            "same" where the spoilt answer says what the true one said.
        note: Why a check that passed may.
    """

    check: Check
    fact: str
    way: str
    outcome: str
    why: str = ""
    note: str = ""

    @property
    def unwanted(self) -> bool:
        """Whether the check passes without a reason, or says no sentence."""
        if self.outcome == "passed":
            return self.way != "true" and not self.note
        return self.outcome == "raised" or bool(OF_PYTHON.search(self.why.partition("\n")[0]))


OF_PYTHON = re.compile(r"__\w+__|object at 0x|Traceback|NoneType|positional argument")  # in no sentence of ours
# What does not rest on the text of an answer: its exit status or HTTP status says all
STATUS = re.compile(
    r"`systemctl is-(active|enabled) docker`|`test -d|`command -v|`docker pull`|removing leftovers|"
    r"note of the (image|run)|GET /health|ip neigh|`docker run` in \d+$"
)
# compared as a whole, by a sha256, or an archive
HASHED = re.compile(r"manifest.json|record.json|the kept record|the family's files")
OF_STATUS = "its status is the answer"
# Why a check that passes may: what matches "check | fact | way" leaves true what the check says
EXCUSES = {
    r" \| doubled$": "said twice, it says the same",
    r"^test_(situation|snapshot_is_whole|container_is_up).* \| the configuration file of 920": "asked along only",
    r"^test_(situation|nothing_d|number|container_is_of|gpus_are_p|storage_a|snapshot_may|container_may).* \| stale$": (
        "read again under the lock before anything changes"
    ),
    r"^test_(storage_has|declared_disk|driver_serves|image_has|model).* \| (`test -d|daemon.json|`uname -m|"
    r"GET manifests: config)": "only tells where to ask",
    r"^test_(storage_has|declared_disk).* \| GET blobs": "not about its size",
    r"^test_model_can_\w+ \| GET api/models|^test_model_fits_\w+ \| GET config": "only the other page is judged",
    r"^test_image_has_kernels.*uuid \| swapped": "both cards are of one architecture",
    r"pci_bus_id \| missing": "the report states it twice",
    r"^test_gpus_survive_a_reload \| reload": "the same before and after",
    r": dev[01] \|": "proved by function: `test_gpu_may_be_used`",
    r" \| \.vmlist(: ids\.\d+)? \| (stale|missing)": "a container that is not listed yet is known by its file",
    r"^test_clone_has_a_place \| `zfs list .* \| swapped": "of other numbers than the one that is asked for",
    r"ip neigh \| missing": "arping is asked instead",
    r"^test_parent_is_as_declared \| the configuration file of 903: rootfs": "only tells whether it is half made",
    r"`uname|os-release|`test -d": "testinfra's own question, not judged",
    r"`nvidia-smi -q -x -i 1` in 920: .* \| missing": "a card or driver may lack the field",
    r"Size \| unknown|looking for \w+ in 920: (freed|sizes|rest) \|": "only kept in the record",
    r"`docker exec \S+ python3": "only kept in the record",
    r"CUDA in \d+: cuda": "only kept in the record",
    r"^test_cuda_works_on_gpu .*: product": "judged by `test_gpu_computes`",
    r"Config\.(Env|Entrypoint) \| (missing|unknown)": "an image may have none; a server that needs it does not start",
    r"content in \d+: around\.": "a change around the template is reported as not re-proved and fails nothing",
    r"^test_(server_gets_ready|clone_serves|all_gpus\w+) \| (the configuration file of 920|the kept record)": (
        "only tells what avoids a wrong way of adding up"
    ),
    r"^test_all_gpus_serve_together \| GET (config|api)": ("only tells whether the model can be split"),
    r"`nvidia-smi topo": "only kept in the record",
    r"adding up over all GPUs in 920: \*\.detail": "only words of a message",
    r"--query-gpu=name": "only names the folder of caches",
    r"^test_server_is_fast\w+ \| the reference(: (gpu|image|model|server_args))? \| (missing|unknown|not a number)$": (
        "without a reference of this GPU, image and model nothing is judged, and that is warned of"
    ),
    r"^test_server_scores.*token \| (unknown|not)": "a token may be any text; judged by `test_answers_agree`",
    r"^test_(answers_agree|server_is_fast_enough) \| the reference \| stale": "the same reference at an earlier moment",
    r"^test_clone_serves \| POST /v1.* \| missing": "inconclusive in `test_clone_answers_as_its_template`",
    r"^test_snapshot_is_accepted \| the journal": "only tells which earlier generations may go",
    r"generations: (invocation|manifest)|generations: taken": "a snapshot is known by its name, description and time",
    r"net0 \| missing": "a container may have no network",
    r"\| identity in \d+ \| swapped": "different all the same",
    r"`command -v": "without sshd there is no host key to miss",
    r"^test_(family|desc).* \| `pveversion`": "asked along only",
    r"^test_(family|desc).* \| (`cat /proc/driver|nvidia-smi -q -x \|)": (
        "module and nvidia-smi both state the driver; `test_driver_of_the_node_that_is_not_known_is_no_fit`"
    ),
    r"^test_(family|desc).* \| (.vmlist: ids.(101|903|920)|the configuration file of (101|903|920)|storage.cfg)": (
        "of a machine that does not descend"
    ),
    r"^test_(family|desc).* \| the (node's|family's) files \| (swapped|stale)": "names and finds the same descendant",
    r"^test_(family|desc).* \| the manifest in (101|903) \| unknown": "what is no manifest names no generation",
    r"^test_(family|desc).* \| the manifest in (101|903) \| missing": "a warning names the container",
    r"^test_(family|desc).* \| the node's sockets \| swapped": "the same containers run",
    r"^test_family_is_known \| (.* 931|.vmlist: ids.931|who makes|the node's sockets)": (
        "judged by `test_descendant_is_sound`"
    ),
    r"^test_descendant_is_sound \| content in 931: template.model": "the model is not read, which takes minutes",
    r"^test_(record|snapshot|conf|container_c|image|model|packages|stack|surroundings)\w* \| `cat /etc/phoenix": (
        "read to resume; what is inside is compared by its sha256"
    ),
    r"^test_(\w+recorded\w*|record_is_kept|container_carries\w+|surroundings\w+) \| the journal": (
        "read to resume; found by `test_snapshot_is_accepted`"
    ),
}


class Probe:
    """One check with its facts."""

    def __init__(self, bench: Bench, check: Check, *, by_field: bool = True) -> None:
        self.bench, self.check, self.by_field = bench, check, by_field

    def cells(self) -> Iterator[Cell]:
        """All that became of it."""
        spoiler = Spoiler()
        outcome, why = Trial(self.bench, self.check, spoiler).outcome()
        yield Cell(self.check, "", "true", outcome, why)
        for fact, answers in spoiler.facts.items():
            structured = [] if HASHED.search(fact) else fields(answers[0])
            by_field = FIELD_WAYS if structured else ()
            for way, change in WHOLE.items():
                if way == "missing" or way not in by_field:
                    yield self._try(fact, answers, way, change)
            yield self._stale(fact, answers)
            for path in structured if self.by_field else ():
                yield from self._field(fact, answers, path)

    def sampled(self, count: int) -> Iterator[Cell]:
        """What became of it with some fields spoilt, the same ones each time: of those that it reads up to `count`."""
        spoiler = Spoiler()
        Trial(self.bench, self.check, spoiler).outcome()
        facts = ((fact, answers) for fact, answers in spoiler.facts.items() if not HASHED.search(fact))
        found = [(fact, answers, path) for fact, answers in facts for path in fields(answers[0])]
        found.sort(key=lambda one: crc32(f"{self.check.name} {one[0]} {one[2]}".encode()))
        for fact, answers, path in found[: 12 * count]:
            cells = list(self._field(fact, answers, path))
            yield from cells
            if (count := count - bool(cells)) <= 0:
                return

    def _try(self, fact: str, answers: list[Answer], way: str, change: Change) -> Cell:
        return Cell(self.check, fact, way, "same") if _same(answers, change) else self._run(fact, way, change)

    def _run(self, fact: str, way: str, change: Change) -> Cell:
        spoiler = Spoiler()
        spoiler.fact, spoiler.change = fact, change
        return Cell(self.check, fact, way, *Trial(self.bench, self.check, spoiler).outcome())

    def _field(self, fact: str, answers: list[Answer], path: tuple[str, ...]) -> Iterator[Cell]:
        """A field that the check reads: one whose other value, or whose absence, it minds."""
        found = {way: self._try(fact, answers, way, field_change(path, way)) for way in ("another", "missing")}
        if all(cell.outcome in ("passed", "same") for cell in found.values()):
            return
        for way in FIELD_WAYS:
            change, itself = field_change(path, way), field_change(path, "itself")
            cell = found.get(way) or (
                Cell(self.check, fact, way, "same")
                if all(change(each) == itself(each) for each in answers)
                else self._run(fact, way, change)
            )
            yield replace(cell, fact=f"{fact}: {'.'.join(path)}")

    def _stale(self, fact: str, answers: list[Answer]) -> Cell:
        """The answer of an earlier moment: before the container was cloned, sealed, or accepted."""
        state = Trial(self.bench, self.check, Spoiler()).state
        old = Spoiler()
        if EARLIER[state] != state:
            with contextlib.suppress(BuildError):  # of what is to be checked, nothing may have been there yet
                Trial(self.bench, self.check, old, states()[EARLIER[state]]).outcome()
        found = old.facts.get(fact)
        if not found or found[0] in answers:
            return Cell(self.check, fact, "stale", "same")
        return self._run(fact, "stale", lambda _: found[0])


def _same(answers: list[Answer], change: Change) -> bool:
    return all(change(each) == each for each in answers)


def cells(bench: Bench, *, by_field: bool = True) -> list[Cell]:
    """The whole table: where a check passes, with the reason why it may, if there is one."""
    found = [cell for check in checks() for cell in Probe(bench, check, by_field=by_field).cells()]
    finders: dict[tuple[str, str], list[Check]] = defaultdict(list)
    for cell in found:
        if cell.outcome == "failed":
            finders[cell.fact, cell.way].append(cell.check)
    return [explained(cell, finders[cell.fact, cell.way]) for cell in found]


def explained(cell: Cell, finders: list[Check]) -> Cell:
    """A cell with the reason why its check may pass, if it does and there is one."""
    if cell.outcome != "passed" or cell.way == "true":
        return cell
    if STATUS.search(cell.fact) and cell.way not in ("missing", "stale"):
        return replace(cell, note=OF_STATUS)
    key = f"{cell.check.short} | {cell.fact} | {cell.way}"
    if note := next((note for pattern, note in EXCUSES.items() if re.search(pattern, key)), ""):
        return replace(cell, note=note)
    order = list(dict.fromkeys(each.stage for each in checks()))
    before = [each for each in finders if order.index(each.stage) <= order.index(cell.check.stage)]
    return replace(cell, note=f"found by `{before[0].short}`") if before else cell
