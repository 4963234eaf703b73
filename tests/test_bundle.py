"""Opening bundles: what is damaged or hostile is refused with a sentence; writing leaves all or nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgereason.bundle import Bundle
from edgereason.errors import BundleError, ExportError, UsageError
from edgereason.publishing import new_directory

Change = Callable[[Any], Any]


@pytest.fixture
def bundle(native_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(native_bundle, tmp_path / "copy"))


def change_manifest(bundle: Path, change: Change) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    change(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def test_a_manifest_survives_reading_and_writing(bundle: Path) -> None:
    text = (bundle / "bundle.json").read_text()
    Bundle.open(bundle).write_manifest()
    assert (bundle / "bundle.json").read_text() == text


def test_a_flipped_bit_anywhere_is_a_wrong_checksum(bundle: Path) -> None:
    for name in Bundle.open(bundle).files:
        file = bundle / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{file.name} has a wrong checksum"):
            Bundle.open(bundle)
        file.write_bytes(content)
    Bundle.open(bundle)


def test_a_truncated_or_missing_file_is_named(bundle: Path) -> None:
    weights = bundle / "answer" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(BundleError, match=r"model\.safetensors has .* truncated"):
        Bundle.open(bundle)
    weights.unlink()
    with pytest.raises(BundleError, match=r"answer.model\.safetensors is missing"):
        Bundle.open(bundle)


def test_a_bundle_that_a_killed_export_has_moved_aside_is_named(bundle: Path) -> None:
    aside = bundle.with_name(f".{bundle.name}.123.old")
    bundle.rename(aside)
    with pytest.raises(BundleError, match="an export was killed while it replaced it") as caught:
        Bundle.open(bundle)
    assert f"Rename {aside} to {bundle.name}" in caught.value.cure


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "guidance/../../outside", "C:\\x", "a\\..\\..\\b"])
def test_a_path_that_leaves_the_bundle_is_refused(bundle: Path, path: str) -> None:
    (bundle.parent / "outside").write_text("secret")
    change_manifest(bundle, lambda manifest: manifest["files"].update({path: {"bytes": 6, "sha256": ""}}))
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(bundle)


def in_the_hubs_cache(bundle: Path) -> Path:
    """The bundle as the Hugging Face hub's client keeps it: every file is a link to one beside the bundle."""
    blobs, snapshot = bundle.parent / "blobs", bundle.parent / "snapshots" / "commit"
    blobs.mkdir()
    for number, file in enumerate(sorted(each for each in bundle.rglob("*") if each.is_file())):
        link = snapshot / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return snapshot


@pytest.mark.parametrize("verify", [True, False])
def test_links_to_what_the_manifest_says_are_followed(bundle: Path, verify: bool) -> None:
    assert Bundle.open(in_the_hubs_cache(bundle), verify).files == Bundle.open(bundle).files


@pytest.mark.parametrize("verify", [True, False])
def test_a_link_to_something_else_is_refused(bundle: Path, verify: bool) -> None:
    snapshot = in_the_hubs_cache(bundle)
    weights = snapshot / "guidance" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.safetensors has a wrong checksum"):
        Bundle.open(snapshot, verify)
    weights.unlink()
    weights.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="missing"):
        Bundle.open(snapshot, verify)


def test_a_directory_that_is_a_link_out_of_the_bundle_is_refused(bundle: Path) -> None:
    (bundle / "guidance").rename(bundle.parent / "elsewhere")
    (bundle / "guidance").symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(schema=99), "schema version 99"),
        (lambda manifest: manifest.update(format="exe"), "unknown here"),
        (lambda manifest: manifest.pop("stages"), "damaged"),
        (lambda manifest: manifest["stages"].pop("answer"), "damaged"),
        (lambda manifest: manifest["stages"]["answer"].update(max_new_tokens="many"), "damaged"),
        (lambda manifest: manifest["stages"]["answer"].update(prompt="Hi"), "not a prompt"),
        (lambda manifest: manifest["stages"]["answer"]["sampling"].update(temperature=-1), "temperature"),
        (lambda manifest: manifest["files"].update(x=7), "damaged"),
        (lambda manifest: manifest["files"].update(x={"bytes": 1.0, "sha256": ""}), "not its bytes and sha256"),
        (lambda manifest: manifest["files"].update(x={"bytes": 1, "sha256": None}), "not its bytes and sha256"),
        (lambda manifest: manifest["stages"]["answer"].update(stop_strings="ab"), "stop_strings is 'ab', not a list"),
        (lambda manifest: manifest["stages"]["answer"].update(stop_strings=[1]), "not strings"),
        (lambda manifest: manifest["stages"]["answer"].update(max_new_tokens=2.5), "max_new_tokens is 2.5"),
    ],
)
def test_a_broken_manifest_is_refused(bundle: Path, change: Change, message: str) -> None:
    change_manifest(bundle, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


@pytest.mark.parametrize("token", [float("inf"), float("nan"), 2.5, 2.0, "2", True, None, -1, [1], {}])
def test_stop_ids_are_token_ids(bundle: Path, token: object) -> None:
    change_manifest(bundle, lambda manifest: manifest["stages"]["answer"].update(stop_ids=[2, token]))
    with pytest.raises(BundleError, match=r"bundle\.json is damaged: stop_ids are \[2, .*, not token ids"):
        Bundle.open(bundle)


def test_of_a_bundle_of_each_layout_the_wanted_one_is_opened(
    native_bundle: Path, shared_bundle: Path, tmp_path: Path
) -> None:
    for source in (native_bundle, shared_bundle):
        shutil.copytree(source, tmp_path / f"a-{source.name}" if source == native_bundle else tmp_path / "b")
    for layout in ("merged", "shared"):
        assert Bundle.find(tmp_path, layout).layout == layout
    with pytest.raises(UsageError, match=r"no single bundle: there is a-.* \(merged\), b \(shared\)"):
        Bundle.find(tmp_path)
    shutil.rmtree(tmp_path / "b")
    assert Bundle.find(tmp_path).layout == "merged"
    with pytest.raises(UsageError, match="no shared bundle") as caught:
        Bundle.find(tmp_path, "shared")
    assert "--layout shared" in caught.value.cure


def test_a_bundle_of_another_layout_is_refused(shared_bundle: Path) -> None:
    assert Bundle.find(shared_bundle, "shared").path == shared_bundle
    with pytest.raises(UsageError, match="no merged bundle"):
        Bundle.find(shared_bundle, "merged")
    with pytest.raises(UsageError, match="no layout 'split'"):
        Bundle.find(shared_bundle, "split")


def test_a_manifest_that_is_not_json_is_refused(bundle: Path) -> None:
    (bundle / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=r"bundle\.json is damaged"):
        Bundle.open(bundle)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_directory(tmp_path / "out") as staging:
            (staging / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("first", "second"):
        with new_directory(out, replace=True) as staging:
            (staging / "file").write_text(text)
    with pytest.raises(ExportError, match="exists already"), new_directory(out):
        pass
    assert (out / "file").read_text() == "second"
    assert list(tmp_path.iterdir()) == [out]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """On a file system of 64 KB, in a mount namespace of its own."""
    script = f"""
import sys
from pathlib import Path
from edgereason.publishing import new_directory
from edgereason.errors import ExportError
try:
    with new_directory(Path({str(tmp_path / "out")!r})) as staging:
        (staging / "file").write_bytes(bytes(1 << 20))
except ExportError as error:
    print(error)
print(list(Path({str(tmp_path)!r}).iterdir()))
"""
    mount = f"mount -t tmpfs -o size=64k none {tmp_path}"
    if os.name == "nt" or subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    run = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, script]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "out could not be written: No space left on device." in output
    assert output.splitlines()[-1] == "[]"


OPEN = """
import sys
from pathlib import Path
from edgereason.bundle import Bundle
Bundle.open(Path(sys.argv[1]))
ours = {name.split(".")[1] for name in sys.modules if name.startswith("edgereason.")}
print(sorted(ours), sorted({"numpy", "safetensors", "tokenizers", "jinja2", "rich"} & set(sys.modules)), sep="\\n")
"""


def test_opening_a_manifest_loads_no_engine(native_bundle: Path) -> None:
    done = subprocess.run([sys.executable, "-c", OPEN, str(native_bundle)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, libraries = done.stdout.splitlines()
    assert ours == "['bundle', 'errors', 'files', 'text', 'version']"
    assert libraries == "[]"


def test_a_missing_bundle_is_a_sentence_where_only_the_core_is_installed(tmp_path: Path) -> None:
    program = """
import sys
for name in ("filelock", "torch", "transformers", "peft", "huggingface_hub", "gguf"):
    sys.modules[name] = None
from edgereason.cli.app import main
sys.argv = ["edgereason", "ask", "--bundle", sys.argv[1], "How many?"]
main()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "is not a bundle" in done.stderr
    assert "Traceback" not in done.stderr
