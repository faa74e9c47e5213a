"""The arrows between the parts, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, by its full name; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively, which this test does not follow"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def within(imported: set[str], *packages: str) -> set[str]:
    return {name for name in imported if any(name == p or name.startswith(f"{p}.") for p in packages)}


def ids(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", modules("app"), ids=ids)
def test_app_imports_nothing_from_training_or_tests(path: Path) -> None:
    assert within(imports(path), "training", "tests") == set()


@pytest.mark.parametrize("path", modules("app/inference"), ids=ids)
def test_inference_knows_no_http(path: Path) -> None:
    assert within(imports(path), "fastapi", "starlette", "uvicorn", "app.api", "app.main") == set()


@pytest.mark.parametrize("path", modules("app/store"), ids=ids)
def test_the_store_knows_no_http_and_no_model(path: Path) -> None:
    assert within(imports(path), "fastapi", "starlette", "uvicorn", "app.api", "app.main", "app.inference") == set()


@pytest.mark.parametrize("path", [*modules("app/inference"), *modules("app/engines")], ids=ids)
def test_inference_does_not_know_what_is_kept(path: Path) -> None:
    assert within(imports(path), "app.store", "sqlalchemy") == set()


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("errors", set()),
        ("images", {"app.errors"}),
        ("artifact", {"app.errors", "app.images"}),
        ("served_version", {"app.errors"}),
        ("exported", {"app.artifact"}),
        ("metrics", set()),
        ("settings", {"app.images"}),
    ],
)
def test_the_lowest_modules_import_only_what_is_below(name: str, allowed: set[str]) -> None:
    imported = within(imports(REPOSITORY / "app" / f"{name}.py"), "app", "training")

    assert imported - within(imported, *allowed) == set()


@pytest.mark.parametrize("path", modules("app/client"), ids=ids)
def test_the_client_knows_the_service_by_what_travels_only(path: Path) -> None:
    imported = within(imports(path), "app", "training")

    travels = within(imported, "app.client", "app.errors", "app.artifact", "app.api.schemas", "app.api.item_schemas")
    assert imported - travels == set()


def test_the_client_needs_no_database() -> None:
    """It may be all that somebody uses of this package."""
    code = "import sys, app.client; print('sqlalchemy' in sys.modules, 'fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout == "False False\n"


@pytest.mark.parametrize("path", [path for path in modules("app") if path.parent.name != "cli"], ids=ids)
def test_only_the_module_that_is_run_knows_the_command_line(path: Path) -> None:
    assert not within(imports(path), "app.cli", "typer", "rich") or path.name == "__main__.py"


@pytest.mark.parametrize("path", modules("training"), ids=ids)
def test_training_shares_only_the_contract_with_the_service(path: Path) -> None:
    imported = within(imports(path), "app")

    contract = ("artifact", "engines", "images", "errors", "exported", "served_version")
    shared = within(imported, *(f"app.{name}" for name in contract))
    assert imported - shared - {"app"} == set()


def torch_jit_uses(path: Path) -> Iterator[str]:
    """`torch.jit.x` that is called or used as a value; types in annotations and @torch.jit.export are not uses."""
    tree = ast.parse(path.read_text())
    ignored: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            annotations = [argument.annotation for argument in arguments] + [node.returns]
            ignored.update(inner for annotation in annotations if annotation for inner in ast.walk(annotation))
            ignored.update(d for d in node.decorator_list if ast.unparse(d) == "torch.jit.export")
        elif isinstance(node, ast.AnnAssign):
            ignored.update(ast.walk(node.annotation))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in ignored and ast.unparse(node).startswith("torch.jit."):
            yield ast.unparse(node)


def test_torch_jit_is_used_on_the_two_sides_of_the_artefact_only() -> None:
    users = {ids(path) for path in modules("app", "training") if any(torch_jit_uses(path))}

    assert users == {"app/engines/torchscript.py", "training/export.py"}


def test_torch_jit_is_not_imported_under_another_name() -> None:
    assert [ids(path) for path in modules("app", "training") if within(imports(path), "torch.jit")] == []


def test_only_its_engine_needs_torch() -> None:
    """So that a service with ONNX Runtime alone starts without it."""
    users = {ids(path) for path in modules("app") if within(imports(path), "torch")}

    assert users == {"app/engines/torchscript.py"}


def test_a_service_with_onnx_runtime_imports_no_torch() -> None:
    """Loads both shipped models in a process of its own, as the slim install does."""
    code = (
        "import sys; from app.inference.store import ModelStore; from app.settings import Settings;"
        "store = ModelStore(Settings(engine='onnxruntime')); store.load(); store.require_ready();"
        "print(store.names, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[0] == "['fashion-mnist', 'wardrobe'] False"
