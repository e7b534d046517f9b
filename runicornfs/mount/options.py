"""What `-o` may say: our own options, FUSE's, and those of mount(8)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from runicornfs.errors import InvalidInput
from runicornfs.store.paths import shown

# Handed on to the kernel as they are.
KERNEL_OPTIONS = frozenset(
    ["noexec", "exec", "noatime", "atime", "nodiratime", "relatime", "strictatime", "sync", "async", "dirsync"]
)
# Meant for mount(8), systemd and fstab, or decided by us: a server never brings a set-uid program or a device here.
IGNORED_OPTIONS = frozenset(
    ["ro", "nosuid", "nodev", "suid", "dev", "defaults", "auto", "noauto", "user", "users", "nouser", "owner", "group"]
    + ["nofail", "_netdev"]
)


@dataclass(frozen=True)
class MountOptions:
    """How a mount looks and who may use it."""

    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0
    allow_other: bool = False
    xattr: bool = False
    kernel: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> MountOptions:
        """Reads `OPT[,OPT…]`. Raises InvalidInput that names the option."""
        fields: dict[str, int | bool] = {}
        kernel = []
        for option in filter(None, text.split(",")):
            name, equals, value = option.partition("=")
            if name in ("uid", "gid", "umask") and equals:
                fields[name] = _number(name, value)
            elif name in ("allow_other", "xattr") and not equals:
                fields[name] = True
            elif option in KERNEL_OPTIONS:
                kernel.append(option)
            elif option == "rw":
                raise InvalidInput("-o rw: a runicornfs mount is read-only")
            elif option not in IGNORED_OPTIONS and not option.startswith("x-"):
                raise InvalidInput(f"-o {option}: there is no such mount option")
        return cls(**fields, kernel=tuple(kernel))  # type: ignore[arg-type]


def _number(name: str, value: str) -> int:
    """As mount(8) takes it: digits, of an umask octal ones, and nothing else that Python would read as a number."""
    pattern, base, most = (r"[0-7]{1,4}", 8, 0o777) if name == "umask" else (r"[0-9]{1,10}", 10, 2**32 - 2)
    if not re.fullmatch(pattern, value) or int(value, base) > most:
        raise InvalidInput(
            f"-o {shown(f'{name}={value}')}: {name} takes a number from 0 to {most:{'o' if base == 8 else 'd'}}"
        )
    return int(value, base)
