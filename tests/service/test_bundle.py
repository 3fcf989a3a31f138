"""Zips of own code as strangers send them: what is refused, by name, before anything of it lies on a disk; and what is unpacked."""

import contextlib
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from zips import zipped

from largebatch.jobs.errors import InputError, SpecError
from largebatch.service.bundle import (
    LARGEST_BYTES,
    MOST_FILES,
    BundleFile,
    files_in_bundle,
    pack,
    references_in,
    refuse_misplaced,
    remove_with_code,
    unpack,
    unpack_once,
)

CODE = b"def build(num_classes):\n    ...\n"


def kind(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


def claiming(packed: bytes, size: int) -> bytes:
    """The same zip, whose list says another size of its only file."""
    place = packed.index(b"PK\x01\x02") + 24
    return packed[:place] + struct.pack("<I", size) + packed[place + 4 :]


GOOD = ("my_code.py", CODE)
ODD = {
    "a path upwards": (zipped(GOOD, ("../outside.py", CODE)), "'../outside.py'"),
    "a path that goes down and up": (zipped(GOOD, ("a/../../outside.py", CODE)), "'a/../../outside.py'"),
    "an absolute path": (zipped(GOOD, ("/tmp/outside.py", CODE)), "'/tmp/outside.py'"),
    "another system's path": (zipped(GOOD, ("a\\..\\outside.py", CODE)), "the path"),
    "another system's drive": (zipped(GOOD, ("c:/outside.py", CODE)), "the path"),
    "a name with an end inside": (zipped(GOOD, (b"ev\x1bil.py".decode(), CODE)), "the path"),
    "a long path": (zipped(GOOD, ("a/" * 150 + "b.py", CODE)), "at most 200 bytes"),
    "a name that is longer than a disk takes": (zipped(GOOD, ("\u4e2d" * 90 + ".py", CODE)), "at most 200 bytes"),
    "a link": (zipped(GOOD, (kind("etc", stat.S_IFLNK | 0o777), b"/etc")), "'etc', which is a link or a device"),
    "a device": (zipped(GOOD, (kind("null", stat.S_IFCHR | 0o666), b"")), "a link or a device"),
    "the same name twice": (zipped(GOOD, GOOD), "'my_code.py' twice"),
    "the same name but for its letters' case": (zipped(GOOD, ("My_Code.py", CODE)), "'My_Code.py' twice"),
    "a file below a file": (zipped(GOOD, ("a", b""), ("a/b.py", CODE)), "below what is a file"),
    "a bomb by ratio": (zipped(GOOD, ("zeros.txt", bytes(LARGEST_BYTES))), "more than 20 MiB, unpacked"),
    "a bomb that is said to be small": (claiming(zipped(("zeros.py", bytes(1 << 20))), 10), "no zip file that can be read"),
    "a bomb by count": (zipped(GOOD, *((f"f{number}.txt", b"") for number in range(MOST_FILES))), "more than 1000 files"),
    "a list of files that fills memory": (zipped(*((f"f{number}{'x' * 500}", b"") for number in range(2000))), "more than 1000 files"),
    "too many bytes": (zipped(("data.py", b"x" * (LARGEST_BYTES + 1)), compression=zipfile.ZIP_STORED), "larger than 20 MiB"),
    "no zip": (b"def build(): ...", "is no zip file"),
    "nothing": (b"", "is no zip file"),
    "half a zip": (zipped(GOOD)[:60], "is no zip file"),
    "a zip with a comment": (zipped(GOOD, comment=b"hello"), "has a comment"),
    "a zip whose bytes changed": (zipped(GOOD, compression=zipfile.ZIP_STORED).replace(b"def", b"fed"), "Bad CRC-32"),
    "another packing": (zipped(GOOD, compression=zipfile.ZIP_LZMA), "packed in a way that is not usual"),
    "no code": (zipped(("readme.txt", b"hello")), "holds no Python file"),
    "a module of Python's": (zipped(GOOD, ("random.py", CODE)), "module 'random'"),
    "a module of Python's, compiled": (zipped(GOOD, ("random.pyc", CODE)), "module 'random'"),
    "a package of Python's, compiled": (zipped(GOOD, ("random/__init__.so", CODE)), "module 'random'"),
    "our package": (zipped(GOOD, ("largebatch/__init__.py", CODE)), "module 'largebatch'"),
    "a file within our package": (zipped(GOOD, ("largebatch/jobs/labels.txt", CODE)), "module 'largebatch'"),
    "a file in place of our package": (zipped(GOOD, ("largebatch", CODE)), "module 'largebatch'"),
}


@pytest.mark.parametrize(("packed", "problem"), ODD.values(), ids=ODD.keys())
def test_what_is_no_bundle_of_code_is_refused_and_nothing_of_it_written(packed: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        files_in_bundle(packed)
    assert refused.value.field == "code"
    assert problem in refused.value.problem
    with pytest.raises(InputError):
        unpack_once(packed, tmp_path / "job" / "code")
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / "job"] == []


def test_a_second_name_leads_nowhere_else(tmp_path: Path) -> None:
    """Newer versions of Python's zipfile take an entry's name from this field, where it is said to be of the first one."""
    entry, name = zipfile.ZipInfo("second.py"), b"../outside.py"
    data = struct.pack("<BI", 1, zlib.crc32(b"second.py")) + name
    entry.extra = struct.pack("<HH", 0x7075, len(data)) + data
    with contextlib.suppress(InputError):
        unpack_once(zipped(GOOD, (entry, CODE)), tmp_path / "job" / "code")
    assert list(tmp_path.rglob("outside.py")) == []


def test_an_encrypted_file_is_refused() -> None:
    packed = bytearray(zipped(GOOD))
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InputError, match="encrypted"):
        files_in_bundle(bytes(packed))


def test_a_bundle_is_unpacked_whole_and_nobody_changes_it(tmp_path: Path) -> None:
    packed = zipped(GOOD, ("pkg/", b""), ("pkg/__init__.py", b""), ("pkg/labels.json", b"[]"), ("typing_of_ours.py", b""))
    sizes = {"my_code.py": len(CODE), "pkg/__init__.py": 0, "pkg/labels.json": 2, "typing_of_ours.py": 0}
    assert files_in_bundle(packed) == [BundleFile(path=path, bytes=size) for path, size in sizes.items()]
    folder = tmp_path / "job" / "code"
    unpack_once(packed, folder)
    assert (folder / "my_code.py").read_bytes() == CODE
    assert [path.name for path in folder.parent.iterdir()] == ["code"]
    modes = {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes == {".": 0o500, "pkg": 0o500, **dict.fromkeys(sizes, 0o400)}
    remove_with_code(folder.parent)
    assert not folder.parent.exists()


def test_the_same_files_are_the_same_bundle(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "pkg").mkdir(parents=True)
        for path in ("my_code.py", "pkg/__init__.py"):
            (tmp_path / name / path).write_bytes(CODE)
    (tmp_path / "other" / "my_code.py").chmod(0o600)
    files = [Path("pkg/__init__.py"), Path("my_code.py")]
    packed = pack(tmp_path / "one", files)
    assert packed == pack(tmp_path / "other", files[::-1])
    unpack(packed, tmp_path / "back")
    assert (tmp_path / "back" / "pkg" / "__init__.py").read_bytes() == CODE


def test_a_folder_inside_the_zip_is_named() -> None:
    files = files_in_bundle(zipped(("project/my_code.py", CODE), ("project/other/__init__.py", b"")))
    for reference, path in (("my_code:build", "project/my_code.py"), ("other.deep:build", "project/other/__init__.py")):
        with pytest.raises(SpecError, match=path):
            refuse_misplaced(files, [reference])
    refuse_misplaced(files, ["timm:create_model", "project.my_code:build"])


def test_references_are_found_wherever_a_spec_or_a_sweep_has_them() -> None:
    sweep = {
        "base": {"model": {"entry_point": "a:build"}, "optimizer": {"name": "sgd"}},
        "spec": {"each": {"model.entry_point": ["b:build", "c:build"], "optimizer": ["lamb", "d:make", {"entry_point": "e:make"}]}},
    }
    assert references_in(sweep) == {"a:build", "b:build", "c:build", "d:make", "e:make"}
