"""Allowed values, and the real commands' messages for others.

The checks, their order and their words are those of pve-common's PVE/JSONSchema.pm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

# A format says what is wrong with a value, given also the name of what has the value; empty if nothing is.
Form = Callable[[str, str], str]
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.[0-9]+|[0-9]+\.|\.[0-9]+|[0-9]+)([eE][+-]?[0-9]+)?")
OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4 = rf"({OCTET}\.){{3}}{OCTET}"


class Rule:
    """What one value may be."""

    def __init__(
        self,
        kind: str = "string",
        form: Form | None = None,
        *,
        pattern: str = "",
        shortest: int = 0,
        longest: int = 0,
        least: float | None = None,
        most: float | None = None,
        choices: tuple[str, ...] = (),
        listed: bool = False,
        needed: bool = False,
    ) -> None:
        self.kind = kind
        self.form = form
        self.pattern = pattern
        self.shortest = shortest
        self.longest = longest
        self.least = least
        self.most = most
        self.choices = choices
        self.listed = listed
        self.needed = needed

    def complaint(self, value: str, path: str) -> str:
        """What is wrong with a value; empty if nothing is."""
        for check in (self._kind, self._form, self._text, self._amount):
            if said := check(value, path):
                return said
        if self.choices and value not in self.choices:
            return f"value '{value}' does not have a value in the enumeration '{', '.join(self.choices)}'"
        return ""

    def _kind(self, value: str, _path: str) -> str:
        fits = {
            "string": True,
            "boolean": value in ("0", "1"),
            "integer": bool(INTEGER.fullmatch(value)),
            "number": bool(NUMBER.fullmatch(value)),
        }[self.kind]
        return "" if fits else f"type check ('{self.kind}') failed - got '{value}'"

    def _form(self, value: str, path: str) -> str:
        if not self.form:
            return ""
        said = [self.form(part, path) for part in (split_list(value) if self.listed else [value])]
        return next((f"invalid format - {one}\n" for one in said if one), "")

    def _text(self, value: str, _path: str) -> str:
        if self.pattern and not re.fullmatch(self.pattern, value):
            return "value does not match the regex pattern"
        if self.longest and len(value) > self.longest:
            return f"value may only be {self.longest} characters long"
        if len(value) < self.shortest:
            return f"value must be at least {self.shortest} characters long"
        return ""

    def _amount(self, value: str, _path: str) -> str:
        if not NUMBER.fullmatch(value):
            return ""
        if self.most is not None and float(value) > self.most:
            return f"value must have a maximum value of {self.most:g}"
        if self.least is not None and float(value) < self.least:
            return f"value must have a minimum value of {self.least:g}"
        return ""


class Properties:
    """A comma-separated list of properties, such as `name=eth0,bridge=vmbr0`."""

    def __init__(self, rules: Mapping[str, Rule], default: str = "") -> None:
        self.rules = rules
        self.default = default

    def __call__(self, text: str, path: str) -> str:
        """What is wrong with such a list; empty if nothing is."""
        try:
            self.parse(text, path)
        except ValueError as error:
            return str(error)
        return ""

    def parse(self, text: str, path: str = "") -> dict[str, str]:
        """The properties by their names.

        Raises:
            ValueError: It can't be used; in the real words.
        """
        given: dict[str, str] = {}
        for part in text.split(","):
            if not part.strip():
                continue
            key, value = self._pair(part)
            if key in given:
                raise ValueError(f"duplicate key in comma-separated list property: {key}")
            given[key] = value
        if said := self._complaints(given, path):
            raise ValueError(f"format error\n{said}")
        return given

    def _pair(self, part: str) -> tuple[str, str]:
        if "=" not in part:
            if not self.default:
                raise ValueError("value without key, but schema does not define a default key")
            return self.default, part
        key, _, value = part.partition("=")
        if not key or not value:
            raise ValueError("missing key in comma-separated list property")
        if key not in self.rules:
            raise ValueError(f"invalid key in comma-separated list property: {key}")
        if self.rules[key].kind == "boolean":
            value = {True: "1", False: "0", None: value}[truth(value)]
        return key, value

    def _complaints(self, given: dict[str, str], path: str) -> str:
        said = {key: rule.complaint(given[key], key) for key, rule in self.rules.items() if key in given}
        said |= {
            key: "property is missing and it is not optional"
            for key, rule in self.rules.items()
            if rule.needed and key not in given
        }
        return "".join(f"{path + '.' if path else ''}{key}: {words}\n" for key, words in said.items() if words)


def truth(word: str) -> bool | None:
    """Whether a word means yes or no; None if neither."""
    if word.lower() in ("1", "on", "yes", "true"):
        return True
    return False if word.lower() in ("0", "off", "no", "false") else None


def split_list(text: str) -> list[str]:
    """The parts of a list, however it is separated."""
    return [part for part in re.split(r"[,;\0\s]+", text) if part]


def like(pattern: str, complaint: str) -> Form:
    """A format that is a pattern; `{}` in the complaint stands for the value."""
    return lambda value, _: "" if re.fullmatch(pattern, value) else complaint.replace("{}", value)


def _cidr4(value: str) -> bool:
    match = re.fullmatch(rf"{IPV4}/([0-9]+)", value)
    return bool(match) and 7 < int(value.partition("/")[2]) <= 32


def _ip4(value: str, _path: str) -> str:
    fits = value in ("dhcp", "manual") or _cidr4(value)
    return "" if fits else "value does not look like a valid ipv4 network configuration"


def _ip6(value: str, _path: str) -> str:
    if value in ("auto", "dhcp", "manual"):
        return ""
    address, slash, bits = value.partition("/")
    fits = slash and bits.isdigit() and 7 < int(bits) <= 128 and _is_ip6(address)
    return "" if fits else "value does not look like a valid ipv6 network configuration"


def _is_ip6(value: str) -> bool:
    import ipaddress  # noqa: PLC0415 # seldom needed, and slow to load

    try:
        return bool(ipaddress.IPv6Address(value))
    except ValueError:
        return False


def _gateway6(value: str, _path: str) -> str:
    return "" if _is_ip6(value) else "value does not look like a valid IPv6 address"


def _address(value: str, _path: str) -> str:
    return "" if re.fullmatch(IPV4, value) or _is_ip6(value) else "value does not look like a valid IP address"


def _startup(value: str, _path: str) -> str:
    parts = [part for part in value.split(",") if part.strip()]
    fits = value not in ("", "0") and all(re.fullmatch(r"(order=)?[0-9]+|(up|down)=[0-9]+", part) for part in parts)
    return "" if fits else "unable to parse startup options"


def _mount_path(value: str, _path: str) -> str:
    bad = re.search(r"/\.\.?(/|$)|^\.\./", value)
    return f"{value} contains illegal character sequences" if bad else ""


def _device_path(value: str, _path: str) -> str:
    fits = value.startswith("/dev/") and not re.search(r"/\.\.?(/|$)", value)
    return "" if fits else f"{value} is not a valid device path"


def _disk_size(value: str, _path: str) -> str:
    fits = re.fullmatch(r"[0-9]+(\.[0-9]+)?[KMGT]?", value)
    return "" if fits else f"value does not look like a valid disk size: {value}"


LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
ANY = Rule()
BOOL = Rule("boolean")
_VMID = like("[1-9][0-9]{2,8}", "value does not look like a valid VM ID")
VMID = Rule("integer", _VMID, least=100, most=999999999)
CONFIG_ID = like("[a-zA-Z][a-zA-Z0-9_-]+", "invalid configuration ID '{}'")
NAME = Rule(form=CONFIG_ID, longest=40)
NODE = Rule(form=like(LABEL, "value does not look like a valid node name"))
DNS = Rule(form=like(rf"({LABEL}\.)*{LABEL}", "value does not look like a valid DNS name"))
STORAGE = Rule(form=like("[a-zA-Z][a-zA-Z0-9._-]*[a-zA-Z0-9]", "storage ID '{}' contains illegal characters"))
POOL = Rule(form=like("([A-Za-z0-9._-]+)(/[A-Za-z0-9._-]+){0,2}", "pool name '{}' contains invalid characters"))
SPEED = Rule("number", least=0)
DIGEST = Rule(longest=40)
DNS_LIST = Rule(form=DNS.form, listed=True)
IP_LIST = Rule(form=_address, listed=True)
TAG_LIST = Rule(form=like(r"[a-zA-Z0-9_][a-zA-Z0-9_+.-]*", "invalid characters in tag"), listed=True)
ID_LIST = Rule(form=CONFIG_ID, listed=True)
STARTUP = Rule(form=_startup)

_MAC = like("[a-fA-F0-9][02468aceACE](:[a-fA-F0-9]{2}){5}", "value does not look like a valid unicast MAC address")
NET = Properties(
    {
        "bridge": Rule(pattern=r"[-_.\w]+"),
        "firewall": BOOL,
        "gw": Rule(form=like(IPV4, "value does not look like a valid IPv4 address")),
        "gw6": Rule(form=_gateway6),
        "host-managed": BOOL,
        "hwaddr": Rule(form=_MAC),
        "ip": Rule(form=_ip4),
        "ip6": Rule(form=_ip6),
        "link_down": BOOL,
        "mtu": Rule("integer", least=64, most=65535),
        "name": Rule(pattern=r"[-_.\w]+", needed=True),
        "rate": Rule("number"),
        "tag": Rule("integer", least=1, most=4094),
        "trunks": Rule(pattern="[0-9]+(;[0-9]+)*"),
        "type": Rule(choices=("veth",)),
    }
)
_SWITCHES = dict.fromkeys(("force_rw_sys", "fuse", "keyctl", "mknod", "nesting"), BOOL)
FEATURES = Properties({**_SWITCHES, "mount": Rule(pattern="[a-zA-Z0-9_; ]+")})
DEVICE = Properties(
    {
        "deny-write": BOOL,
        "gid": Rule("integer", least=0),
        "mode": Rule(pattern="0[0-7]{3}"),
        "path": Rule(form=_device_path),
        "uid": Rule("integer", least=0),
    },
    default="path",
)
_VOLUME = {
    "acl": BOOL,
    "mountoptions": Rule(pattern="[a-zA-Z0-9_=;-]+"),
    "quota": BOOL,
    "replicate": BOOL,
    "ro": BOOL,
    "shared": BOOL,
    "size": Rule(form=_disk_size),
    "volume": Rule(form=_mount_path, needed=True),
}
ROOTFS = Properties(_VOLUME, default="volume")
MOUNT = Properties(
    {**_VOLUME, "backup": BOOL, "keepattrs": BOOL, "mp": Rule(form=_mount_path, needed=True)}, default="volume"
)
