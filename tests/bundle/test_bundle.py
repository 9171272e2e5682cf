"""The bundle: what is written is read back bit for bit, and what was tampered with is refused in one line, unrun."""

import collections
import hashlib
import io
import json
import os
import pathlib
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import dill
import numpy as np
import pytest
import torch

from ptycho_torch.bundle import Bundle, check_destination, inspect_bundle, read_bundle, verify_bundle, write_bundle
from ptycho_torch.bundle.contents import LEGACY, MANIFEST, MEMBERS, PARAMS, PROBE, PROVENANCE, WEIGHTS
from ptycho_torch.bundle.legacy import dump_parameters, load_parameters
from ptycho_torch.commands.bundle import run
from ptycho_torch.errors import BundleError, PtychoError, UsageError

SCALE = 9.882117688026186
LEGACY_VALUES = {"N": 16, "gridsize": 2, "intensity_scale": SCALE, "probe.trainable": False, "probe.mask": None}
LEGACY_VALUES |= {"model_type": "pinn", "nphotons": 1e5, "train_data_file_path": "x.npz", "shape": (3, 4)}


def content() -> dict:
    generator = torch.Generator().manual_seed(1)
    weights = {
        "stage.weight": torch.randn(3, 2, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "stage.bias": torch.randn(3, generator=generator),
        "step": torch.tensor(0.5),
        "count": torch.tensor([1, 2]),
        "wave": torch.randn(2, 4, dtype=torch.complex64, generator=generator),
    }
    params = {"intensity_scale": {"value": SCALE, "origin": "closed form"}, "n": 16, "training": {"loss": float("nan")}}
    values = np.random.default_rng(2).normal(size=(2, 2, 16, 16))
    return {
        "weights": weights,
        "params": params,
        "legacy": dict(LEGACY_VALUES),
        "probe": (values[0] + 1j * values[1]).astype(np.complex64),
        "provenance": {"ptycho_torch": "0", "seed": 3},
    }


@pytest.fixture
def bundle(tmp_path) -> Path:
    return write_bundle(tmp_path / "model", **content())


@pytest.fixture
def marker(tmp_path):
    """A file that only executed code could create."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "reading ran code that the file brought along"


def refusal(function, *arguments, error: type[PtychoError] = BundleError) -> str:
    with pytest.raises(error) as refused:
        function(*arguments)
    message = str(refused.value)
    assert message.isprintable(), "a refusal is one line without control characters"
    assert len(message) < 600
    return message


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def forge(path: Path, changes: dict[str, bytes]) -> Path:
    """The bundle with other members and a manifest that vouches for them: what a careful forger would send."""
    members = members_of(path) | changes
    manifest = json.loads(members.pop(MANIFEST))
    manifest["members"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in members.items()
    }
    return pack(path, {**members, MANIFEST: json.dumps(manifest).encode()})


def with_manifest(path: Path, **changes) -> Path:
    members = members_of(path)
    return pack(path, members | {MANIFEST: json.dumps(json.loads(members[MANIFEST]) | changes).encode()})


def same(bundle: Bundle, other: Bundle) -> bool:
    return (
        bundle.weights.keys() == other.weights.keys()
        and all(torch.equal(bundle.weights[name], other.weights[name]) for name in bundle.weights)
        and (bundle.params, bundle.legacy, bundle.provenance) == (other.params, other.legacy, other.provenance)
        and np.array_equal(bundle.probe, other.probe)
    )


# ---- what is written is read


@pytest.mark.parametrize("given", ["folder", "file"])
def test_what_is_written_is_read_bit_for_bit(bundle, given):
    loaded, wanted = read_bundle(bundle.parent if given == "folder" else bundle), content()
    assert loaded.weights.keys() == wanted["weights"].keys()
    for name, tensor in wanted["weights"].items():
        assert loaded.weights[name].dtype == tensor.dtype
        assert loaded.weights[name].shape == tensor.shape
        assert torch.equal(loaded.weights[name], tensor)
    assert loaded.params["intensity_scale"]["value"] == SCALE
    assert loaded.params["training"]["loss"] is None
    assert loaded.legacy == wanted["legacy"]
    assert loaded.provenance == wanted["provenance"]
    assert loaded.probe.dtype == np.complex64
    np.testing.assert_array_equal(loaded.probe, wanted["probe"])
    assert loaded.probe.flags.writeable
    assert loaded.path == bundle
    assert loaded.digest == hashlib.sha256(bundle.read_bytes()).hexdigest()


def test_equal_content_gives_an_equal_sha256(tmp_path):
    first, second = content(), content()
    for name in ("weights", "params", "legacy", "provenance"):
        second[name] = dict(reversed(second[name].items()))
    text = "".join(["pi", "nn"])  # equal to "pinn", another object
    first["legacy"] |= {"a": text, "b": text}
    second["legacy"] |= {"a": "".join(["pi", "nn"]), "b": "".join(["pi", "nn"])}
    paths = [write_bundle(tmp_path / str(i), **value) for i, value in enumerate((first, second))]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    second["weights"]["step"] += 1e-6
    assert write_bundle(tmp_path / "1", **second).read_bytes() != paths[0].read_bytes()


def test_archive_is_sorted_stored_and_undated(bundle):
    with zipfile.ZipFile(bundle) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted([*MEMBERS, MANIFEST])
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.external_attr >> 16 for entry in entries} == {0o644}


def test_digest_file_lists_the_archive_and_then_its_members(bundle):
    lines = [line.split() for line in (bundle.parent / "bundle_digest.txt").read_text().splitlines()]
    members = members_of(bundle)
    assert lines[0] == [hashlib.sha256(bundle.read_bytes()).hexdigest(), str(bundle.stat().st_size), "wts.h5.zip"]
    assert lines[1:] == [
        [hashlib.sha256(members[name]).hexdigest(), str(len(members[name])), name] for name in sorted(members)
    ]


def test_shared_and_tied_weights_are_written_as_they_are(tmp_path):
    weight = torch.arange(6.0)
    path = write_bundle(tmp_path, **content() | {"weights": {"a": weight, "b": weight, "c": weight[2:4]}})
    weights = read_bundle(path).weights
    assert weights["a"].tolist() == weights["b"].tolist() == weight.tolist()
    assert weights["c"].tolist() == [2, 3]


def test_a_bundle_packed_again_by_another_zip_is_still_read(bundle):
    before = read_bundle(bundle)
    pack(bundle, members_of(bundle), compression=zipfile.ZIP_DEFLATED)
    assert same(read_bundle(bundle), before)
    assert "bundle_digest.txt" in refusal(verify_bundle, bundle)


# ---- params.dill for older tools


@pytest.mark.parametrize("load", [pickle.loads, dill.loads], ids=["pickle", "dill"])
def test_older_tools_read_the_legacy_parameters(bundle, load):
    assert load(members_of(bundle)[LEGACY]) == LEGACY_VALUES


def test_numpy_numbers_become_plain_in_the_legacy_parameters():
    values = pickle.loads(dump_parameters({"N": np.int64(64), "s": np.float64(2.5), "flags": [True, None]}))
    assert values == {"N": 64, "s": 2.5, "flags": [True, None]}
    assert (type(values["N"]), type(values["s"])) == (int, float)


@pytest.mark.parametrize("value", [np.zeros(2), {"nested": 1}, Path("x"), [[1]], b"x", torch.zeros(1)])
def test_legacy_parameters_are_flat_primitives(tmp_path, value):
    message = refusal(lambda: write_bundle(tmp_path / "model", **content() | {"legacy": {"bad": value}}))
    assert "'bad'" in message
    assert not (tmp_path / "model").exists()


class Trap:
    """Pickles as a call of os.system."""

    def __init__(self, marker: Path):
        self.command = f"touch {marker}"

    def __reduce__(self):
        return os.system, (self.command,)


class Visitor(list):
    """A class that only its writer knows."""


def foreign_parameters(marker: Path) -> dict:
    return {
        **{"N": 64, "intensity_scale": np.float32(9.5), "probe.mask": torch.ones(2), "output_prefix": Path("/a/b")},
        **{"probe": np.arange(6, dtype=np.complex64).reshape(2, 3).T, "kinds": np.array(["ab", "c"])},
        **{"objects": np.array([None, Trap(marker)], dtype=object), "trap": Trap(marker), "visitor": Visitor([1])},
        **{"ordered": collections.OrderedDict(b=1, a=(2, 3)), "activation": lambda x: x, "nested": {"sizes": [1, 2]}},
        **{"deep": [{"inside": Trap(marker)}], "class": pathlib.PosixPath, "_version": "2.0-pytorch"},
    }


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("library", [pickle, dill], ids=["pickle", "dill"])
def test_foreign_parameters_are_read_apart_from_what_needs_their_code(marker, library, protocol):
    values = foreign_parameters(marker)
    if library is pickle:
        del values["activation"]
    plain, unreadable = load_parameters(library.dumps(values, protocol=protocol))
    refused = {"probe.mask", "objects", "trap", "visitor", "deep", "class", "activation"} & values.keys()
    assert unreadable.keys() == refused
    assert "system" in unreadable["trap"]
    assert "system" in unreadable["deep"]
    assert "torch" in unreadable["probe.mask"]
    np.testing.assert_array_equal(plain.pop("probe"), values["probe"])
    assert plain.pop("kinds").tolist() == ["ab", "c"]
    assert plain == {
        **{"N": 64, "intensity_scale": 9.5, "output_prefix": "/a/b", "nested": {"sizes": [1, 2]}},
        **{"ordered": {"b": 1, "a": (2, 3)}, "_version": "2.0-pytorch"},
    }


def nested(levels: int) -> bytes:
    return b"\x80\x04}\x8c\x01a" + b"]" * levels + b"a" * (levels - 1) + b"s."


def sharing(levels: int) -> bytes:
    inner: list = [0]
    for _ in range(levels):
        inner = [inner, inner]
    return pickle.dumps({"a": inner, "N": 64}, protocol=4)


def array_pickle(shape: tuple, data: bytes, code: str = "f8") -> bytes:
    """A pickled array that announces any shape and type for any bytes."""

    class Forged:
        def __reduce__(self):
            state = (1, shape, np.dtype(code) if code != "f8" else np.dtype("f8"), False, data)
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    return pickle.dumps({"a": Forged(), "N": 64}, protocol=4)


@pytest.mark.parametrize(
    "data",
    [
        array_pickle((2**40,), b"x"),
        array_pickle((-1, -8), b"x" * 64),
        array_pickle((3,), b"x" * 16),
        array_pickle((1,), b"x" * 16),
        array_pickle((1.5,), b"x" * 12),
        array_pickle((2,), b"x" * 16, "O"),
        sharing(25),
        sharing(40),
    ],
    ids=["huge", "negative", "short", "long", "fraction", "objects", "wide", "deep"],
)
def test_a_forged_value_is_reported_and_costs_no_memory(data):
    tracemalloc.start()
    _, unreadable = load_parameters(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a" in unreadable
    assert peak < 50e6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        pickle.dumps([1, 2]),
        pickle.dumps({1: 2}),
        pickle.dumps({"N": 64})[:-3],
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",  # announces 2**62 bytes
        b"I" + b"9" * 10_000 + b"\n.",
        b"\x82\x01.",
        b"Pevil\n.",
    ],
)
def test_a_damaged_pickle_is_refused(data):
    with pytest.raises(ValueError) as refused:
        load_parameters(data)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04}r\xff\xff\xff\x01.",  # keeps a value at place 2**25, with everything before it
        pickle.dumps({"a": [1.5] * 30_000}),
        b"\x80\x04}(" + b")" + b"\x85" * 30_000 + b"Nu.",  # a key nested so deep that its hash overflows the stack
    ],
    ids=["place", "values", "key"],
)
def test_a_pickle_beyond_parameters_is_refused_before_it_is_loaded(data):
    with pytest.raises(ValueError, match="larger than parameters can be"):
        load_parameters(data)
    with pytest.raises(ValueError, match="bytes, parameters take at most"):
        load_parameters(pickle.dumps({"a": bytes(16 * 2**20)}))


def test_nested_parameters_end_somewhere():
    assert load_parameters(nested(20))[1] == {}
    assert "a" in load_parameters(nested(3000))[1]


# ---- attacks on the archive


def test_missing(tmp_path):
    assert "no such file" in refusal(read_bundle, tmp_path / "nowhere")
    assert "no wts.h5.zip" in refusal(read_bundle, tmp_path)


@pytest.mark.parametrize("data", [b"", b"x", b"\x89HDF\r\n\x1a\n" + bytes(100), b"PK", pickle.dumps({"N": 1})])
def test_not_a_zip(tmp_path, data):
    path = tmp_path / "wts.h5.zip"
    path.write_bytes(data)
    assert "not a zip" in refusal(read_bundle, path)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.999])
def test_truncated(bundle, kept):
    data = bundle.read_bytes()
    bundle.write_bytes(data[: int(kept * len(data))])
    assert "truncated" in refusal(read_bundle, bundle)


@pytest.mark.parametrize("name", [*MEMBERS, MANIFEST])
def test_one_flipped_byte_in_a_member_is_named(bundle, name):
    data, content = bytearray(bundle.read_bytes()), members_of(bundle)[name]
    start = bytes(data).index(content)
    for place in (0, len(content) // 2, len(content) - 1):
        data[start + place] ^= 1
        bundle.write_bytes(data)
        message = refusal(read_bundle, bundle)
        assert "altered" in message
        assert name in message
        assert name in refusal(verify_bundle, bundle)
        data[start + place] ^= 1
    bundle.write_bytes(data)
    read_bundle(bundle)


@pytest.mark.parametrize("name", MEMBERS)
def test_one_flipped_byte_behind_a_mended_checksum_is_named(bundle, name):
    members = members_of(bundle)
    changed = bytearray(members[name])
    changed[len(changed) // 2] ^= 1
    message = refusal(read_bundle, pack(bundle, members | {name: bytes(changed)}))
    assert f"altered: {name}: its sha256" in message


def test_no_flipped_byte_anywhere_changes_what_is_read(bundle):
    data, before = bytearray(bundle.read_bytes()), read_bundle(bundle)
    places = range(0, len(data), 7)
    refused = 0
    for place in places:
        data[place] ^= 0x41
        bundle.write_bytes(data)
        data[place] ^= 0x41
        assert refusal(verify_bundle, bundle)
        try:
            changed = read_bundle(bundle)
        except BundleError:
            assert refusal(read_bundle, bundle)
            refused += 1
        else:
            assert same(changed, before)
    assert refused > 0.8 * len(places)


@pytest.mark.parametrize("name", [*MEMBERS, MANIFEST])
def test_a_member_left_out_is_named(bundle, name):
    members = members_of(bundle)
    del members[name]
    message = refusal(read_bundle, pack(bundle, members))
    assert name in message


@pytest.mark.parametrize("extra", ["extra.txt", "diffraction_to_obj/model.pth", "diffraction_to_obj/", "a\x07\nb", "ü"])
def test_a_member_too_many_is_named(bundle, extra):
    message = refusal(read_bundle, pack(bundle, members_of(bundle) | {extra: b"x"}))
    assert ascii(extra) in message


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "C:\\x", "C:x", "..\\up", "\\\\host\\share\\x"])
def test_names_that_lead_outside(bundle, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    for function in (read_bundle, inspect_bundle, verify_bundle):
        assert "unsafe member name" in refusal(function, pack(bundle, members_of(bundle) | {name: b"x"}))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_duplicate_members(bundle, name):
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(name, b"{}")
    message = refusal(read_bundle, bundle)
    assert "twice" in message
    assert name in message


@pytest.mark.parametrize("count", [27, 5_000])
def test_too_many_members(bundle, count):
    members = members_of(bundle)
    pack(bundle, members | {f"{i}": b"" for i in range(count)})
    tracemalloc.start()
    assert "members" in refusal(read_bundle, bundle)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_too_many_members_behind_a_small_number(bundle):
    """The 64-bit record at the end overrides the number that stands in the usual place."""
    pack(bundle, {str(i): b"" for i in range(66_000)})
    data = bytearray(bundle.read_bytes())
    data[-22 + 8 : -22 + 16] = struct.pack("<HHL", 6, 6, 400)
    bundle.write_bytes(data)
    with zipfile.ZipFile(bundle) as archive:
        assert len(archive.namelist()) == 66_000
    tracemalloc.start()
    assert "too many members" in refusal(read_bundle, bundle)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def announce(path: Path, name: str, size: int) -> None:
    """Changes the size that the list of members gives, and nothing else."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.getinfo(name).file_size = size
        archive._didModify = True


@pytest.mark.parametrize("size", [2 * 2**30 + 1, 2**40])
def test_announced_sizes_are_capped(bundle, size):
    announce(bundle, WEIGHTS, size)
    message = refusal(read_bundle, bundle)
    assert f"announces {size} bytes" in message


def test_announced_total_is_capped(bundle):
    for name in (WEIGHTS, PARAMS, PROBE):
        announce(bundle, name, 3 * 2**29)
    assert "its members announce" in refusal(read_bundle, bundle)


@pytest.mark.parametrize("announced", [None, 10])
@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, LEGACY, PARAMS])
def test_a_bomb_is_not_inflated(bundle, name, announced):
    members = members_of(bundle)
    pack(bundle, members | {name: bytes(48 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    assert bundle.stat().st_size < 2**20
    if announced:
        announce(bundle, name, announced)
    tracemalloc.start()
    assert name in refusal(read_bundle, bundle)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_a_member_shorter_than_announced(bundle):
    announce(bundle, WEIGHTS, len(members_of(bundle)[WEIGHTS]) + 1000)
    assert WEIGHTS in refusal(read_bundle, bundle)


@pytest.mark.parametrize("version", [2, 10**9])
def test_newer(bundle, version):
    message = refusal(read_bundle, with_manifest(bundle, version=version))
    assert f"newer: format version {version}" in message


@pytest.mark.parametrize("version", [0, -1, "2", None, True, 1.5, [1]])
def test_a_version_that_is_none(bundle, version):
    assert "altered: manifest.json" in refusal(read_bundle, with_manifest(bundle, version=version))


def test_a_manifest_of_another_format(bundle):
    assert "foreign" in refusal(read_bundle, with_manifest(bundle, format="other\nformat"))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}"])
def test_a_manifest_that_is_none(bundle, data):
    assert MANIFEST in refusal(read_bundle, pack(bundle, members_of(bundle) | {MANIFEST: data}))


@pytest.mark.parametrize("records", [None, [], {}, dict.fromkeys(MEMBERS), {name: {"size": "1"} for name in MEMBERS}])
def test_a_manifest_without_usable_members(bundle, records):
    assert "altered" in refusal(read_bundle, with_manifest(bundle, members=records))


# ---- a forger who mends every digest still runs nothing


@pytest.mark.parametrize("library", [pickle, dill], ids=["pickle", "dill"])
def test_a_pickle_that_would_run_a_command(bundle, marker, library):
    trap = library.dumps({"N": 64, "intensity_scale": Trap(marker)}, protocol=4)
    for data in (trap, b"cos\nsystem\n(S'touch %s'\ntR." % os.fsencode(marker)):
        message = refusal(read_bundle, forge(bundle, {LEGACY: data}))
        assert "altered: diffraction_to_obj/params.dill" in message
    library.loads(trap)
    assert marker.exists(), "the attack itself works"
    marker.unlink()


@pytest.mark.parametrize(
    "value",
    [np.zeros(2), np.float64(1), Path("x"), {"a": 1}, b"x", [[1]], 1j, collections.OrderedDict(N=16), Visitor()],
    ids=lambda value: type(value).__name__,
)
def test_wrong_types_in_the_legacy_parameters(bundle, value):
    for parameters in ({"N": value}, {"N": [value]}, {3: value}, [value]):
        message = refusal(read_bundle, forge(bundle, {LEGACY: pickle.dumps(parameters, protocol=4)}))
        assert "altered: diffraction_to_obj/params.dill" in message


def npy(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def test_a_probe_that_is_none(bundle, marker):
    probe = content()["probe"]
    pickled = npy(np.array([[[Trap(marker)]]], dtype=object), allow_pickle=True)
    huge = npy(probe).replace(b"(2, 16, 16), }    ", b"(2, 9999, 9999), }")
    assert len(huge) == len(npy(probe)), "only the announced shape differs"
    wide = npy(probe[:, :8])
    wrong = (huge, wide, npy(probe[0]), npy(probe)[:-1], npy(probe.real), npy(probe[:0]))
    for data in (b"", b"x", pickle.dumps(Trap(marker)), pickled, *wrong):
        assert f"altered: {PROBE}" in refusal(read_bundle, forge(bundle, {PROBE: data}))
    assert "do not make (2, 9999, 9999)" in refusal(read_bundle, forge(bundle, {PROBE: huge}))


def test_weights_and_records_that_are_none(bundle, marker):
    weights = members_of(bundle)[WEIGHTS]
    for data in (b"", weights[:-1], b"\xff" * 20, pickle.dumps(Trap(marker)), torch_file(Trap(marker))):
        assert f"altered: {WEIGHTS}" in refusal(read_bundle, forge(bundle, {WEIGHTS: data}))
    forge(bundle, {WEIGHTS: weights})
    for name in (PARAMS, PROVENANCE):
        good = members_of(bundle)[name]
        for data in (b"", b"[1]", b"{", pickle.dumps(Trap(marker)), b"[" * 100_000):
            assert f"altered: {name}" in refusal(read_bundle, forge(bundle, {name: data}))
        forge(bundle, {name: good})
    read_bundle(bundle)


def torch_file(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


# ---- bundles of others


@pytest.fixture(params=["torch", "TensorFlow"])
def foreign(request, tmp_path, marker) -> Path:
    """What the two backends of the reference leave under this name, with traps where code would run."""
    manifest = {"models": ["autoencoder", "diffraction_to_obj"], "version": "2.0-pytorch"}
    weights = "model.pth" if request.param == "torch" else "model.keras"
    members = {"manifest.dill": dill.dumps(manifest)}
    for model in manifest["models"]:
        members |= {f"{model}/{weights}": torch_file(Trap(marker))}
        members |= {f"{model}/params.dill": dill.dumps(foreign_parameters(marker))}
        if request.param == "TensorFlow":
            members |= {f"{model}/custom_objects.dill": pickle.dumps(Trap(marker))}
    return pack(tmp_path / "theirs" / "wts.h5.zip", members, compression=zipfile.ZIP_DEFLATED)


def test_foreign_is_refused_with_the_way_out(foreign, marker):
    message = refusal(read_bundle, foreign.parent)
    writer = "torch" if "diffraction_to_obj/model.pth" in members_of(foreign) else "TensorFlow"
    assert f"a bundle of the reference PtychoPINN {writer} backend" in message
    assert "its weights can't be used here" in message
    assert "`ptycho-torch bundle inspect`" in message
    assert "foreign" in refusal(verify_bundle, foreign)


def test_foreign_parameters_are_inspected(foreign, marker, capsys):
    facts = inspect_bundle(foreign.parent)
    parameters = facts["parameters"]["diffraction_to_obj/params.dill"]
    assert (parameters["N"], parameters["intensity_scale"], parameters["output_prefix"]) == (64, 9.5, "/a/b")
    assert facts["parameters"]["manifest.dill"]["version"] == "2.0-pytorch"
    assert facts["members"].keys() == members_of(foreign).keys()
    assert "system" in facts["unusable"]["diffraction_to_obj/params.dill: trap"]
    assert any(name.startswith("diffraction_to_obj/model.") for name in facts["unusable"])
    run("inspect", str(foreign))
    printed = json.loads(capsys.readouterr().out)
    assert printed["parameters"]["diffraction_to_obj/params.dill"]["probe"] == "complex64 array of shape (3, 2)"


def test_a_foreign_pickle_that_is_damaged_is_listed(tmp_path):
    good = pickle.dumps({"N": 64})
    members = {"params.dill": b"junk", "a/params.dill": bytes(17 * 2**20), "b/params.dill": good, "c/params.dill": good}
    path = pack(tmp_path / "wts.h5.zip", members)
    announce(path, "b/params.dill", len(good) + 100)
    facts = inspect_bundle(path)
    assert facts["parameters"] == {"c/params.dill": {"N": 64}}
    assert facts["unusable"].keys() == {"params.dill", "a/params.dill", "b/params.dill"}
    assert all(reason.isprintable() for reason in facts["unusable"].values())


@pytest.mark.parametrize("members", [{}, {"diff3d.npy": b"x"}, {"archive/data.pkl": b"x"}, {"a\nb": b"x"}])
def test_any_other_zip_is_foreign(tmp_path, members):
    path = pack(tmp_path / "wts.h5.zip", members)
    for function in (read_bundle, inspect_bundle, verify_bundle):
        message = refusal(function, path)
        assert "foreign" in message or "unsafe member name" in message


# ---- inspect and verify


def test_inspect_shows_params_and_scale(bundle, capsys):
    run("inspect", str(bundle.parent))
    facts = json.loads(capsys.readouterr().out)
    assert facts["intensity_scale"]["value"] == SCALE
    assert (facts["format"], facts["version"], facts["backend"]) == ("ptycho_torch-bundle", 1, "torch")
    assert facts["members"].keys() == set(MEMBERS)
    assert facts["params"]["n"] == 16
    assert facts["sha256"] == read_bundle(bundle).digest


def test_verify_agrees_with_the_digest_file(bundle, capsys):
    run("verify", str(bundle.parent))
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert read_bundle(bundle).digest in line
    assert verify_bundle(bundle)["digest_file"] == "agrees"
    renamed = bundle.rename(bundle.with_name("copy.zip"))
    assert verify_bundle(renamed)["digest_file"] == "is about another file"
    (bundle.parent / "bundle_digest.txt").unlink()
    assert verify_bundle(renamed)["digest_file"] == "absent"


def test_verify_notices_a_bundle_replaced_whole(bundle, tmp_path):
    other = write_bundle(tmp_path / "other", **content() | {"provenance": {"seed": 4}})
    bundle.write_bytes(other.read_bytes())
    read_bundle(bundle)
    assert "bundle_digest.txt" in refusal(verify_bundle, bundle)


# ---- where a bundle may be written


def test_a_bundle_of_ours_is_replaced_even_when_a_member_is_damaged(bundle):
    data = bytearray(bundle.read_bytes())
    data[data.index(b"NUMPY")] ^= 1
    bundle.write_bytes(data)
    check_destination(bundle.parent)
    write_bundle(bundle.parent, **content())
    assert verify_bundle(bundle)["digest_file"] == "agrees"
    assert {path.name for path in bundle.parent.iterdir()} == {"wts.h5.zip", "bundle_digest.txt"}


def test_a_bundle_of_another_format_stays(foreign, bundle):
    for path, words in ((foreign, "PtychoPINN"), (with_manifest(bundle, version=2), "newer")):
        before = {file: file.read_bytes() for file in path.parent.iterdir()}
        for write in (check_destination, lambda folder: write_bundle(folder, **content())):
            message = refusal(write, path.parent)
            assert words in message
            assert "--output_dir" in message
        assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize("data", [b"", b"something else", b"PK\3\4 cut short"])
def test_an_unknown_file_of_that_name_stays(tmp_path, data):
    path = tmp_path / "wts.h5.zip"
    path.write_bytes(data)
    assert "stays untouched" in refusal(check_destination, tmp_path)
    assert "stays untouched" in refusal(lambda: write_bundle(tmp_path, **content()))
    assert path.read_bytes() == data


def test_a_folder_that_can_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "model", Path("/proc/model")):
        assert "can't be written" in refusal(check_destination, folder, error=UsageError)
        assert "can't be written" in refusal(lambda: write_bundle(folder, **content()), error=UsageError)  # noqa: B023
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_checking_leaves_nothing_behind(tmp_path):
    check_destination(tmp_path / "new" / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_the_previous_bundle(bundle, monkeypatch):
    before = {file: file.read_bytes() for file in bundle.parent.iterdir()}

    def full(path, members):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptycho_torch.bundle.contents.write_archive", full)
    message = refusal(lambda: write_bundle(bundle.parent, **content() | {"provenance": {}}))
    assert "No space left" in message
    assert {file: file.read_bytes() for file in bundle.parent.iterdir()} == before


@pytest.mark.parametrize("probe", [np.ones((16, 16), complex), np.ones((1, 16, 8), complex), np.ones((1, 16, 16))])
def test_a_probe_of_another_form_is_not_written(tmp_path, probe):
    assert "probe" in refusal(lambda: write_bundle(tmp_path / "model", **content() | {"probe": probe}))
    assert not (tmp_path / "model").exists()
