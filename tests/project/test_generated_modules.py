import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
BIN = Path(sys.executable).parent


def proto_files() -> list[str]:
    return sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))


def test_generated_modules_are_what_the_proto_files_make(tmp_path: Path) -> None:
    plugins = [f"--plugin=protoc-gen-{name}={BIN / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{tmp_path}" for kind in ("mypy", "mypy_grpc")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *outputs, *proto_files()],
        check=True,
        capture_output=True,
    )
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2*")}
    committed = {path.relative_to(PROTO): path.read_text() for path in PROTO.rglob("*_pb2*") if path.suffix != ".pyc"}
    assert len(made) == 4 * len(proto_files())
    assert made == committed, "run `make proto` and commit what it writes"


def test_protos_keep_the_standard_style() -> None:
    done = subprocess.run([BIN / "buf", "lint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source_root", ["cluster", "workers", "kernels", "proto"])
def test_no_package_file_shadows_other_packages(source_root: str) -> None:
    folder = ROOT / source_root
    assert not (folder / "__init__.py").exists()
    assert not (folder / "triptych" / "__init__.py").exists()
    packages = [path for path in (folder / "triptych").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert packages
    for package in packages:
        assert (package / "py.typed").exists(), package
