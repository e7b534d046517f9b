"""Where the files of a store belong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.store.layout import Place, Role, place_of
from tests.stores import file_names

NET = "artifacts/model/net"
RUN = "vision/train/runs/r1"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (NET, Place(Role.PLAIN, NET, NET, None)),
        (f"{NET}/versions.json", Place(Role.ARTIFACT_INDEX, NET, NET, None)),
        (f"{NET}/.lock", Place(Role.PLAIN, NET, NET, None)),
        (f"{NET}/latest", Place(Role.PLAIN, NET, NET, None)),
        (f"{NET}/v03/metadata.json", Place(Role.PLAIN, NET, NET, None)),
        (f"{NET}/v3", Place(Role.PLAIN, f"{NET}/v3", NET, 3)),
        (f"{NET}/v3/metadata.json", Place(Role.VERSION_METADATA, f"{NET}/v3", NET, 3)),
        (f"{NET}/v3/manifest.json", Place(Role.VERSION_MANIFEST, f"{NET}/v3", NET, 3)),
        (f"{NET}/v3/.deleted", Place(Role.VERSION_DELETED, f"{NET}/v3", NET, 3)),
        (f"{NET}/v3/files/metadata.json", Place(Role.PLAIN, f"{NET}/v3", NET, 3)),
        (RUN, Place(Role.PLAIN, RUN, None, None)),
        (f"{RUN}/meta.json", Place(Role.RUN_META, RUN, None, None)),
        (f"{RUN}/status.json", Place(Role.RUN_STATUS, RUN, None, None)),
        (f"{RUN}/summary.json", Place(Role.RUN_SUMMARY, RUN, None, None)),
        (f"{RUN}/environment.json", Place(Role.RUN_ENVIRONMENT, RUN, None, None)),
        (f"{RUN}/artifacts_created.json", Place(Role.RUN_CREATED, RUN, None, None)),
        (f"{RUN}/artifacts_used.json", Place(Role.RUN_USED, RUN, None, None)),
        (f"{RUN}/.deleted", Place(Role.RUN_DELETED, RUN, None, None)),
        (f"{RUN}/media/meta.json", Place(Role.PLAIN, RUN, None, None)),
        ("runs/r1/meta.json", Place(Role.RUN_META, "runs/r1", None, None)),
        ("sweeps/a/meta.json", Place(Role.PLAIN, "sweeps", None, None)),
        ("sweeps", Place(Role.PLAIN, "sweeps", None, None)),
    ],
)
def test_a_path_has_its_role_and_its_unit(path: str, place: Place) -> None:
    assert place_of(path) == place


@pytest.mark.parametrize(
    "path",
    ["", "artifacts", "artifacts/model", "artifacts/.dedup/ab/abcd", "artifacts/.tmp/x/versions.json", "runs", "vision",
     "vision/train", "vision/train/runs", "vision/readme.txt", "vision/train/other/r1/meta.json"],
)  # fmt: skip
def test_what_lies_in_no_artifact_and_no_run_belongs_to_no_unit(path: str) -> None:
    assert place_of(path) == Place(Role.PLAIN, "", None, None)


@given(st.lists(st.one_of(st.sampled_from(["artifacts", "runs", "sweeps", "v1", "meta.json"]), file_names())))
def test_every_path_lies_in_its_unit(names: list[str]) -> None:
    path = "/".join(names)
    place = place_of(path)
    assert f"{path}/".startswith(f"{place.unit}/" if place.unit else "")
    assert (place.version is None) or place.unit == f"{place.artifact}/v{place.version}"
