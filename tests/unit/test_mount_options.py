"""What `-o` may say."""

from __future__ import annotations

import os

import pytest

from runicornfs.errors import InvalidInput
from runicornfs.mount.options import MountOptions


def test_without_options_files_belong_to_who_mounts() -> None:
    options = MountOptions.parse("")
    assert (options.uid, options.gid, options.umask) == (os.getuid(), os.getgid(), 0)
    assert not options.allow_other
    assert not options.xattr


def test_ours_are_read() -> None:
    options = MountOptions.parse("allow_other,uid=1000,gid=100,umask=027,xattr")
    assert (options.uid, options.gid, options.umask) == (1000, 100, 0o27)
    assert options.allow_other
    assert options.xattr


def test_those_of_the_kernel_are_handed_on() -> None:
    assert MountOptions.parse("ro,noatime,noexec").kernel == ("noatime", "noexec")


@pytest.mark.parametrize(
    "option", ["_netdev", "x-systemd.automount", "x-systemd.idle-timeout=60", "nofail", "ro", "suid", "dev"]
)
def test_those_of_fstab_are_taken_and_mean_nothing_here(option: str) -> None:
    assert MountOptions.parse(option) == MountOptions()


@pytest.mark.parametrize(
    "option",
    ["rw", "uid=x", "uid=-1", "uid=1_0", "uid= 5", "uid=٣", "umask=9", "umask=7777777", "uid", "big_writes", "xattr=1"],
)
def test_others_are_refused_by_name(option: str) -> None:
    with pytest.raises(InvalidInput, match=option.split("=")[0]):
        MountOptions.parse(option)
