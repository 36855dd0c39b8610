"""Archives in a user's folder: what they hold is what loose files would be, and nothing leads out of them."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ur_fall_files
from mlecs_bench.errors import DataError
from mlecs_plugins.datasets import archives, ur_fall, vast
from mlecs_plugins.datasets.archives import ArchiveError, contents_of, members_of, read_bytes
from vast_files import open_samples, plain, record, tone, verified, write_media, write_records

IDS = ("both", "frames", "photo", "sound")
LEADING_OUT = ("../both.mp4", "/both.mp4", "a/../../frames.mp4", "C:\\photo.mp4", "..\\sound.mp4")
SHAPES = ("zip", "stored.zip", "tar", "tar.gz", "tgz")


def write_loose(folder: Path) -> Path:
    """Write four clips: a video with sound, a folder of frames, a picture and a sound file."""
    media = folder / "media"
    write_media(media / "both.mp4", sound=tone(0.4), n_frames=8)
    for number in (2, 10):
        (media / "frames").mkdir(exist_ok=True)
        Image.fromarray(plain(number)).save(media / "frames" / f"{number}.png")
    Image.fromarray(plain(20)).save(media / "photo.bmp")
    write_media(media / "sound.mp3", draw=None, sound=tone(0.4, 900), form="mp4")
    return write_records(folder / "notes.json", [record(name) for name in IDS]).parent


def pack(folder: Path, archive: Path, *, keep: bool = False, mode: str = "") -> None:
    """Put a folder into an archive beside it, as zip, GNU tar and others do."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(
            archive, "w", zipfile.ZIP_STORED if "stored" in archive.name else zipfile.ZIP_DEFLATED
        ) as z:
            for path in files:
                z.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(archive, mode or ("w" if archive.suffix == ".tar" else "w:gz")) as tar:
            tar.add(folder, folder.name)
    if not keep:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loose(tmp_path_factory.mktemp("loose") / "vast")


def same(found, wanted) -> None:
    assert found.ids == wanted.ids
    assert found.manifest.digest == wanted.manifest.digest
    for name in ("audio", "subtitle", "vision"):
        np.testing.assert_array_equal(found.presence[name], wanted.presence[name])
        np.testing.assert_array_equal(found.array(name), wanted.array(name))


@pytest.fixture(scope="module")
def wanted(loose, tmp_path_factory):
    return open_samples(loose, tmp_path_factory.mktemp("cache"))


def test_loose_files_are_what_archives_are_held_against(wanted):
    assert wanted.ids == IDS
    assert wanted.presence["vision"].tolist() == [True, True, True, False]
    assert wanted.presence["audio"].tolist() == [True, False, False, True]


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_and_digest_do_not_depend_on_how_media_are_packed(shape, loose, wanted, tmp_path):
    folder = Path(shutil.copytree(loose, tmp_path / "vast"))
    pack(folder / "media", folder / f"clips.{shape}")
    same(open_samples(folder, tmp_path / "cache"), wanted)
    same(open_samples(folder, tmp_path / "cache"), wanted)  # from the cache
    found = verified(folder, tmp_path / "cache")
    assert (found.digest, found.problems) == (wanted.manifest.digest, [])
    assert vast.check(folder) == []


def test_an_archive_beside_what_was_unpacked_from_it_changes_nothing_and_is_told(loose, wanted, tmp_path):
    folder = Path(shutil.copytree(loose, tmp_path / "vast"))
    pack(folder / "media", folder / "media.tar", keep=True)
    same(open_samples(folder, tmp_path / "cache"), wanted)
    notes = verified(folder, tmp_path / "cache").notes
    assert any(note.startswith("5 members of archives lie beside them, too") for note in notes), notes


def test_shards_hold_clips_with_a_file_about_each_and_the_annotations_may_be_packed_too(loose, wanted, tmp_path):
    folder = tmp_path / "vast"
    folder.mkdir()
    for shard, names in enumerate((("both", "frames"), ("photo", "sound"))):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for path in sorted((loose / "media").rglob("*")):
                if path.is_file() and {path.stem, path.parent.name} & set(names):
                    tar.add(path, path.relative_to(loose / "media"))
                    if path.parent.name == "media":
                        about = json.dumps({"key": path.stem}).encode()
                        member = tarfile.TarInfo(f"{path.stem}.json")
                        member.size = len(about)
                        tar.addfile(member, io.BytesIO(about))
    with zipfile.ZipFile(folder / "annotations.zip", "w") as archive:
        archive.write(loose / "notes.json", "made/notes.json")
    same(open_samples(folder, tmp_path / "cache"), wanted)


def hostile_tar(path: Path, good: Path, secret: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in LEADING_OUT:
            member = tarfile.TarInfo(name)
            member.size = good.stat().st_size
            tar.addfile(member, io.BytesIO(good.read_bytes()))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("photo.bmp" if kind == tarfile.SYMTYPE else "sound.mp3")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
        pipe = tarfile.TarInfo("frames.mp4")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)
        tar.add(good, "media/both.mp4")


def hostile_zip(path: Path, good: Path, secret: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in LEADING_OUT:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = name
            archive.writestr(entry, good.read_bytes())
        link = zipfile.ZipInfo("photo.bmp")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(secret))
        archive.write(good, "media/both.mp4")


@pytest.mark.parametrize("write", [hostile_tar, hostile_zip])
def test_members_that_lead_out_or_are_links_are_never_read_and_named(write, loose, tmp_path):
    folder = tmp_path / "deep" / "vast"
    folder.mkdir(parents=True)
    shutil.copy(loose / "notes.json", folder)
    Image.fromarray(plain(9)).save(tmp_path / "secret.bmp")
    for name in ("both.mp4", "frames.mp4", "sound.mp4"):
        shutil.copy(loose / "media" / "both.mp4", tmp_path / "deep" / name)
    archive = folder / f"clips.{write.__name__.rpartition('_')[2]}"
    write(archive, loose / "media" / "both.mp4", tmp_path / "secret.bmp")
    assert [path.relative_to(archive).as_posix() for path in members_of(archive)[0]] == ["media/both.mp4"]
    assert open_samples(folder, tmp_path / "cache").ids == ("both",)
    before = sorted(tmp_path.rglob("*"))
    notes = verified(folder, tmp_path / "cache").notes
    assert any("members of archives are not read: " in note and "leads out of the archive" in note for note in notes)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_as_other_systems_write_them_are_read(tmp_path):
    """UTF-8 without the mark that says so (macOS), backslashes (Windows), and attributes of macOS left alone."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("übung.png", "folder\\Größe.png", "__MACOSX/._b.png", ".hidden.png", "./c.png"):
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = name
            archive.writestr(entry, name.encode())
    plain_names = path.read_bytes()
    for name in ("übung.png", "folder\\Größe.png"):  # the flag of UTF-8, in both headers of each entry
        raw = name.encode()
        for before in (30, 46):
            at = -1
            while (at := plain_names.find(raw, at + 1)) >= 0:
                magic = plain_names[at - before : at - before + 4]
                flag = at - before + (6 if before == 30 else 8)
                if magic in (b"PK\x03\x04", b"PK\x01\x02"):
                    plain_names = plain_names[:flag] + b"\0\0" + plain_names[flag + 2 :]
    path.write_bytes(plain_names)
    found = {p.relative_to(path).as_posix(): read_bytes(p).decode() for p in members_of(path)[0]}
    assert found == {"übung.png": "übung.png", "folder/Größe.png": "folder\\Größe.png", "c.png": "./c.png"}


def test_annotations_in_a_compressed_tar_alone_are_found_by_doctor_and_read(loose, wanted, tmp_path):
    folder = tmp_path / "vast"
    shutil.copytree(loose, folder / "all")
    pack(folder / "all", folder / "all.tgz")
    assert vast.check(folder) == []
    same(open_samples(folder, tmp_path / "cache"), wanted)
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 1
    assert open_samples(folder, tmp_path / "cache", annotations="all.tgz/all/notes.json").ids == IDS


def test_frames_in_an_archive_of_their_own_are_a_clip_by_its_name(tmp_path):
    folder = tmp_path / "vast"
    write_records(folder / "notes.json", [record("walk")])
    for number in (1, 2):
        (tmp_path / "walk").mkdir(exist_ok=True)
        Image.fromarray(plain(number)).save(tmp_path / "walk" / f"{number}.png")
    wanted = open_samples(Path(shutil.copytree(tmp_path / "walk", folder / "walk")).parent, tmp_path / "cache")
    shutil.rmtree(folder / "walk")
    with zipfile.ZipFile(folder / "walk.zip", "w") as archive:
        for path in (tmp_path / "walk").iterdir():
            archive.write(path, path.name)
    with tarfile.open(tmp_path / "walk.tgz", "w:gz") as tar:
        for path in (tmp_path / "walk").iterdir():
            tar.add(path, path.name)
    for archive in ("walk.zip", "walk.tgz"):
        found = open_samples(folder, tmp_path / f"cache-{archive}")
        np.testing.assert_array_equal(found.array("vision"), wanted.array("vision"))
        assert found.manifest.digest == wanted.manifest.digest
        if archive == "walk.zip":
            (folder / archive).unlink()
            shutil.copy(tmp_path / "walk.tgz", folder)


def flipped_header(data: bytes) -> bytes:
    """Damage the third header of a tar, which the library would take for its end."""
    at = _headers(data)[2]
    return data[: at + 3] + bytes([data[at + 3] ^ 1]) + data[at + 4 :]


def _headers(data: bytes) -> list[int]:
    return [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]


DAMAGE = {
    "cut zip": ("zip", lambda data: data[:-30]),
    "no zip": ("zip", lambda data: b"no archive"),
    "cut tar": ("tar", lambda data: data[: len(data) // 2]),
    "header": ("tar", flipped_header),
    "cut at a member": ("tar", lambda data: data[: _headers(data)[2]]),
    "cut tgz": ("tgz", lambda data: data[:-9]),
    "no tar": ("tgz", lambda data: gzip.compress(b"no tar" * 1000)),
    "a bit": ("tgz", lambda data: data[:2000] + bytes([data[2000] ^ 8]) + data[2001:]),
    "bomb": ("tgz", lambda data: gzip.compress(bytes(1 << 22))),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_an_archive_that_is_not_whole_is_named_and_refused(name, loose, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BOMB_SIZE", 1 << 20)
    shape, damage = DAMAGE[name]
    folder = Path(shutil.copytree(loose, tmp_path / "vast"))
    archive = folder / f"clips.{shape}"
    pack(folder / "media", archive)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match=rf"vast: clips\.{shape}: (is no whole archive|unpacks to more)") as caught:
        open_samples(folder, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert verified(folder, tmp_path / "cache", view="captions").problems[0].startswith(f"clips.{shape}: ")
    assert vast.check(folder) or shape == "tgz"  # which is not looked into
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.part"))


def test_a_member_with_another_checksum_is_damaged_media_and_never_read_as_if_it_were_whole(loose, tmp_path):
    folder = Path(shutil.copytree(loose, tmp_path / "vast"))
    pack(folder / "media", folder / "clips.stored.zip")
    data = bytearray((folder / "clips.stored.zip").read_bytes())
    data[data.index(b"BM") + 100] ^= 1  # a pixel of the bitmap, which has no checksum of its own
    (folder / "clips.stored.zip").write_bytes(data)
    found = verified(folder, tmp_path / "cache")
    assert [line.partition(" (")[0] for line in found.problems] == [
        "clips.stored.zip/media/photo.bmp: is damaged in its archive"
    ]
    assert "photo" in found.missing["vision"]


def test_what_is_no_media_is_not_unpacked(tmp_path, monkeypatch):
    """Bombs, encrypted members and members that are there twice are refused before anything is unpacked."""
    monkeypatch.setattr(archives, "BOMB_SIZE", 1 << 20)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.bmp", bytes(1 << 22))
        archive.writestr("twice.bmp", b"BM")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("twice.bmp", b"BM")
        archive.writestr("secret.bmp", b"BM")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"secret.bmp") - 46
    struct.pack_into("<H", data, at + 8, 1)
    path.write_bytes(data)
    assert contents_of(path).places == {}
    assert [line.partition(" ")[0] for line in contents_of(path).refused] == ["bomb.bmp", "secret.bmp", "twice.bmp"]
    with pytest.raises(ArchiveError, match=r"is not in a\.zip"):
        read_bytes(path / "bomb.bmp")


# UR-FALL


def pictures() -> dict[int, np.ndarray]:
    generator = np.random.default_rng(3)
    return {frame: generator.integers(0, 256, (48, 64, 3), dtype=np.uint8) for frame in ur_fall_files.LABELS["fall-01"]}


def write_pictures(folder: Path, shape: str) -> None:
    """Write the pictures of a sequence as loose files, as the zip of the data set, or as a tar."""
    made = {f"fall-01-cam0-rgb-{frame:03d}.png": ur_fall_files.png(values) for frame, values in pictures().items()}
    if shape == "zip":
        ur_fall_files.write_zip(folder / "fall-01-cam0-rgb.zip", pictures())
    elif shape == "loose":
        (folder / "video" / "fall-01-cam0.mp4").unlink()
        for name, content in made.items():
            (folder / name).write_bytes(content)
    else:
        with tarfile.open(folder / f"fall-01-cam0-rgb.{shape}", "w" if shape == "tar" else "w:gz") as tar:
            for name, content in made.items():
                member = tarfile.TarInfo(f"fall-01-cam0-rgb/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def test_pictures_of_ur_fall_are_read_from_tars_as_from_zips_and_loose_files(tmp_path):
    made = {}
    for shape in ("zip", "loose", "tar", "tar.gz", "tgz"):
        folder = ur_fall_files.make_folder(tmp_path / shape)
        write_pictures(folder, shape)
        assert ur_fall.check(folder) == []
        made[shape] = ur_fall_files.open_samples(folder, tmp_path / "cache" / shape)
        np.testing.assert_array_equal(made[shape].array("rgb"), made["zip"].array("rgb"))
        if shape not in ("zip", "loose"):
            assert made[shape].manifest.digest == made["loose"].manifest.digest


def test_bad_tars_of_ur_fall_are_named(tmp_path):
    def twice(path: Path) -> None:
        with tarfile.open(path, "a") as tar:
            member = tarfile.TarInfo("other/fall-01-cam0-rgb-003.png")
            tar.addfile(member, io.BytesIO())

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:3000])

    def linked(path: Path) -> None:
        with tarfile.open(path, "a") as tar:
            member = tarfile.TarInfo("fall-01-cam0-rgb-007.png")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)

    def flipped(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") + 40] ^= 4
        path.write_bytes(data)

    for damage, told in (
        (twice, "holds frame 3 twice (fall-01-cam0-rgb-003.png)"),
        (cut, "is no whole archive (unexpected end of data)"),
        (linked, "has a member that is not read: fall-01-cam0-rgb-007.png (is a link)"),
        (flipped, "fall-01-cam0-rgb-001.png is not a whole PNG ("),
    ):
        folder = ur_fall_files.make_folder(tmp_path / damage.__name__)
        write_pictures(folder, "tar")
        damage(folder / "fall-01-cam0-rgb.tar")
        lines = ur_fall_files.problems_of(folder, tmp_path / "cache")
        assert lines[1].startswith(f"  fall-01-cam0-rgb.tar: {told}"), lines
        assert len(lines) == 2
