# SPDX-License-Identifier: Apache-2.0
"""A model bundle on disk: the contract between training and the robot.

A folder with ``bundle.json`` (the :class:`Manifest`), ONNX graphs, and the graphs' weights as external data. Version, fields,
names, sizes and hashes are checked here; what each graph takes and gives is checked by the backend that opens it
(:mod:`longscape_ros.runtime.backends`). No pickle, no torch.

Graphs (B batch, H W image, C h w latent, K context frames, T chunk frames, F action features):

- ``encoder.onnx``: rgb uint8 [B, H, W, 3] -> latents float32 [B, C, h, w]
- ``denoiser_<expert>.onnx``: context float32 [B, K, C, h, w], actions float32 [B, K + T, F], noise float32 [B, T, C, h, w]
  -> latents float32 [B, T, C, h, w]
- ``decoder.onnx``: latents float32 [B, C, h, w] -> rgb uint8 [B, H, W, 3]
- ``router.onnx`` (learned routing only): context float32 [B, K, C, h, w], coming float32 [B, K + L, F], the actions of the next L
  steps whether or not they belong to the chunk -> scores float32 [B, E]; the chunk goes to the expert with the highest
- ``length_predictor.onnx`` (need not be there): context float32 [B, K, C, h, w] -> scores float32 [B, chunk lengths]
- ``context_<expert>.onnx`` and ``step_<expert>.onnx`` (for studies; nothing needs them): the denoiser in two parts, so that an
  evaluation is a call. context float32 [B, K, C, h, w], actions float32 [B, K + T, F] -> keys, values float32 [blocks, B, heads, tokens,
  width / heads]; all of these, noisy float32 [B, T, C, h, w] and time float32 [B], 0 to 1 -> clean float32 [B, T, C, h, w]
- ``error_estimator.onnx`` (with ``confidence``): context float32 [B, K, C, h, w], actions float32 [B, K + T, F], latents float32
  [B, T, C, h, w], before float32 [B], what it said of the newest context frame -> log_error float32 [B, T], the natural logarithm of
  each frame's mean square error (pixels from 0 to 1)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from longscape_ros.contract import ActionSpace, ChunkRule, Confidence, TopicMapping
from longscape_ros.errors import BundleError, InputError

FORMAT_VERSION = 2
DEFAULT = "default"
"""Name of the bundle that is used where none is named."""

SHIPPED = Path(__file__).parent / "bundles"
"""Folder of the bundles that ship with the package."""

MANIFEST_NAME = "bundle.json"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
ROUTER = "router.onnx"
LENGTH_PREDICTOR = "length_predictor.onnx"
ERROR_ESTIMATOR = "error_estimator.onnx"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REPORT = ("training", "evaluation", "verification")


def denoiser(expert: int) -> str:
    """File name of an expert's denoiser."""
    return f"denoiser_{expert}.onnx"


def context_of(expert: int) -> str:
    """File name of the first part of an expert's sampler in its per-step form, which a bundle may have besides."""
    return f"context_{expert}.onnx"


def step_of(expert: int) -> str:
    """File name of the second part, one evaluation."""
    return f"step_{expert}.onnx"


@dataclass(frozen=True, slots=True)
class Routing:
    """How a chunk finds its expert.

    Args:
        kind: ``chunk_length``: one expert per length, as in LongScape; ``learned``: a router that sees context and coming actions.
        lookahead: L, steps ahead that the router sees.
    """

    kind: Literal["chunk_length", "learned"] = "chunk_length"
    lookahead: int = 32


@dataclass(frozen=True, slots=True)
class Experts:
    """How many denoisers there are, and which of them a chunk goes to."""

    count: int
    routing: Routing = Routing()


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Content hash (hexadecimal) and size of a file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What ``bundle.json`` says; the JSON has the same names and nesting.

    Args:
        name: Of the model.
        fps: Rate of the grid in Hz.
        image_size: (H, W).
        latent_shape: (C, h, w).
        context: K.
        sampler_steps: Network evaluations per chunk, unrolled inside the denoiser graphs.
        action_space: The action's dimensions with all that was calibrated on the training bags.
        segmentation: The chunk rule.
        experts: Denoisers and routing.
        horizon: Default steps of a prediction.
        confidence: How the error estimator's words become a probability; None: there is no estimator.
        length_predictor: Whether there is one, for futures without a plan.
        mapping: Topics of the robot it was trained on; None: not said.
        training: Summary of the training, free in form.
        evaluation: Figures of ``longscape eval``.
        verification: Largest difference to the reference, per graph; and how faithful other precisions are.
        files: Name -> hash and size, filled in by :func:`write_bundle`.
    """

    name: str
    fps: float
    image_size: tuple[int, int]
    latent_shape: tuple[int, int, int]
    context: int
    sampler_steps: int
    action_space: ActionSpace
    segmentation: ChunkRule
    experts: Experts
    horizon: int = 32
    confidence: Confidence | None = None
    length_predictor: bool = False
    mapping: TopicMapping | None = None
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    verification: dict[str, float] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.name, *self.files):
            _require_name(name)
        sizes: dict[str, float] = {
            "fps": self.fps,
            "image_size": min(self.image_size),
            "latent_shape": min(self.latent_shape),
            "context": self.context,
            "horizon": self.horizon,
            "sampler_steps": self.sampler_steps,
            "experts.count": self.experts.count,
            "experts.routing.lookahead": self.experts.routing.lookahead,
        }
        for key, value in sizes.items():
            if not value > 0:
                raise InputError(f"Got {key} = {value}, expected a positive number.")
        if self.experts.routing.kind == "chunk_length" and self.experts.count not in (1, len(self.segmentation.lengths)):
            raise InputError(
                f"Got {self.experts.count} experts for the chunk lengths {list(self.segmentation.lengths)}, expected one per length, or 1."
            )

    def graphs(self) -> tuple[str, ...]:
        """The graphs that a bundle of this manifest consists of."""
        optional = {
            ROUTER: self.experts.count > 1 and self.experts.routing.kind == "learned",
            LENGTH_PREDICTOR: self.length_predictor,
            ERROR_ESTIMATOR: self.confidence is not None,
        }
        present = (name for name, is_there in optional.items() if is_there)
        return ENCODER, *(denoiser(expert) for expert in range(self.experts.count)), DECODER, *present


@dataclass(frozen=True)
class Bundle:
    """A bundle that has been checked.

    Args:
        path: Its folder.
        manifest: What it says of itself.
    """

    path: Path
    manifest: Manifest

    @functools.cached_property
    def model_id(self) -> str:
        """Name and hash of all that decides predictions: the manifest (file hashes included) but for its reports."""
        document = {key: value for key, value in _document(self.manifest).items() if key not in _REPORT}
        content = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        return f"{self.manifest.name}@{hashlib.sha256(content).hexdigest()[:12]}"

    def file(self, name: str) -> Path:
        """Path of one of its files."""
        return self.path / name

    def require_actions(self, names: Iterable[str]) -> None:
        """Refuse a robot whose action has other dimensions (in any order).

        Raises:
            BundleError: ``names`` are not the bundle's.
        """
        found = list(names)
        expected = list(self.manifest.action_space.names)
        if sorted(found) != sorted(expected):
            raise BundleError(
                f"Bundle {self.model_id} expected the action names {expected}, found {found}. "
                "Correct the topic mapping, or use a bundle trained on this robot (longscape train, longscape export)."
            )

    def mapping_or(self, given: TopicMapping | None) -> TopicMapping:
        """The topics to read bags by: those given, or else the bundle's own.

        Raises:
            InputError: there are none.
            BundleError: the action is not the bundle's.
        """
        chosen = given or self.manifest.mapping
        if chosen is None:
            raise InputError(f"Got no topic mapping, and bundle {self.model_id} has none; name one with --mapping.")
        self.require_actions(dimension.name for dimension in chosen.dimensions)
        return chosen


def default_bundle_path() -> Path:
    """Folder of the bundle that is used where none is named.

    Raises:
        BundleError: this installation has none.
    """
    path = SHIPPED / DEFAULT
    if not (path / MANIFEST_NAME).is_file():
        raise BundleError(f"{path}: found no default bundle in this installation; reinstall longscape_ros, or name a bundle with --bundle.")
    return path


def find_bundle(named: Path | str | None) -> Path:
    """Folder of a bundle: the path itself, or of one that ships with the package if its name is given; nothing: the default one.

    Raises:
        BundleError: there is no such folder, and none of that name ships.
    """
    if not named or named == Path():
        return default_bundle_path()
    path = Path(named)
    if path.is_dir():
        return path
    shipped = {manifest.parent.name: manifest.parent for manifest in sorted(SHIPPED.glob(f"*/{MANIFEST_NAME}"))}
    if str(named) not in shipped:
        names = " or ".join(shipped) or "there is none"
        raise BundleError(f"{path}: found no such folder, expected a bundle's, or the name of one that ships with the package ({names}).")
    return shipped[str(named)]


def load_bundle(path: Path | str, verify: bool = True) -> Bundle:
    """Read and check a bundle.

    Args:
        path: Its folder.
        verify: Whether to compare the files' hashes too.

    Raises:
        BundleError: a fault; the text names the file, what was found and what was expected.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    for name in manifest.graphs():
        if name not in manifest.files:
            raise BundleError(
                f"{path / MANIFEST_NAME}: found no entry for {name} in 'files', expected one for each of {', '.join(manifest.graphs())}."
            )
    for name, record in manifest.files.items():
        _check_file(path / name, record, verify)
    return Bundle(path, manifest)


def write_bundle(folder: Path | str, manifest: Manifest, sources: Mapping[str, Path]) -> Bundle:
    """Make a bundle of a manifest and files: all of it appears at once, or nothing does.

    Args:
        folder: Where; an older bundle there is replaced, anything else is left alone.
        manifest: Its ``files`` are filled in.
        sources: Name in the bundle -> file to copy.

    Raises:
        BundleError: a graph is missing, or ``folder`` holds something else.
        InputError: a name is not one that a bundle's file can have.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MANIFEST_NAME).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder}: found something that is not a bundle, expected a new or an empty folder, or an older bundle.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        fresh, old = Path(temporary) / "new", Path(temporary) / "old"
        fresh.mkdir()
        for name, source in sources.items():
            _require_name(name)
            shutil.copyfile(source, fresh / name)
        _write_manifest(fresh, replace(manifest, files={name: _record(fresh / name) for name in sorted(sources)}))
        load_bundle(fresh, verify=False)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    return load_bundle(folder, verify=False)


def update_reports(
    path: Path | str,
    training: dict[str, Any] | None = None,
    evaluation: dict[str, float] | None = None,
    verification: dict[str, float] | None = None,
) -> Bundle:
    """Replace reports in a bundle's manifest (None: keep); ``model_id`` stays the same."""
    given: dict[str, Any] = {"training": training, "evaluation": evaluation, "verification": verification}
    path = Path(path)
    _write_manifest(path, replace(_read_manifest(path), **{key: value for key, value in given.items() if value is not None}))
    return load_bundle(path, verify=False)


def _require_name(name: str) -> None:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
        raise InputError(f"Got the name {name!r}, expected letters, digits, '_', '-' and '.' only, and no path; rename it.")


def _record(path: Path) -> FileRecord:
    content = path.read_bytes()
    return FileRecord(hashlib.sha256(content).hexdigest(), len(content))


def _check_file(path: Path, record: FileRecord, verify: bool) -> None:
    if not path.is_file():
        raise BundleError(f"{path}: found no such file, expected {record.bytes} bytes; copy the bundle again.")
    if path.stat().st_size != record.bytes:
        raise BundleError(f"{path}: found {path.stat().st_size} bytes, expected {record.bytes}; copy the bundle again.")
    if verify and (found := _record(path).sha256) != record.sha256:
        raise BundleError(
            f"{path}: found the hash {found}, expected {record.sha256}; the file was changed or damaged, copy the bundle again."
        )


# ---- bundle.json ----


_OPTIONAL = {"image_stamp": "header"}
"""Fields of the mapping that are left out where they have this value: bundles from before there were any keep their model_id."""


def _document(manifest: Manifest) -> dict[str, Any]:
    document = {"format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    if document["mapping"] is not None:
        document["mapping"] = {key: value for key, value in document["mapping"].items() if _OPTIONAL.get(key, object()) != value}
    return document


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    target = folder / MANIFEST_NAME
    try:
        text = json.dumps(_document(manifest), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{target}: found a value that JSON cannot hold ({error}), expected finite numbers, texts, lists and objects."
        ) from error
    temporary = target.with_suffix(".json.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, target)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"{folder}: found no {MANIFEST_NAME}, expected a bundle's folder (longscape export makes one).")
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise BundleError(f"{path}: found text that is not JSON ({error}), expected a manifest; copy the bundle again.") from error
    if not isinstance(document, dict) or "format_version" not in document:
        raise BundleError(f"{path}: found no 'format_version', expected {FORMAT_VERSION}; this is not a bundle's manifest.")
    version = document.pop("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: found format_version {version!r}, expected {FORMAT_VERSION}; export the model again or update longscape_ros."
        )
    manifest: Manifest = _decode(Manifest, document, str(path), "")
    return manifest


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def _decode(kind: Any, value: Any, file: str, at: str) -> Any:
    """A value of type ``kind`` (dataclass, tuple, dict, Literal, union with None, str, int, float) from parsed JSON.

    Args:
        kind: The type.
        value: What JSON gave.
        file: For messages.
        at: Place in the file, for messages.
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):  # X | None
        return None if value is None else _decode(args[0], value, file, at)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _decode_dataclass(kind, value, file, at)
    if origin is dict and isinstance(value, dict):
        return {key: _decode(args[1], item, file, f"{at}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list) and (args[1:] == (...,) or len(value) == len(args)):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        return tuple(_decode(item_kind, item, file, f"{at}[{i}]") for i, (item_kind, item) in enumerate(zip(kinds, value, strict=True)))
    if origin is Literal and value in args:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise BundleError(f"{file}: found {json.dumps(value)[:80]} for {at.lstrip('.')!r}, expected {_describe(kind)}.")


def _decode_dataclass(kind: Any, value: dict[str, Any], file: str, at: str) -> Any:
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    value = {name: default for name, default in _OPTIONAL.items() if name in names} | value
    for name in (*(n for n in names if n not in value), *(n for n in value if n not in names)):
        what = "no" if name in names else "the unknown"
        raise BundleError(f"{file}: found {what} field {f'{at}.{name}'.lstrip('.')!r}, expected {', '.join(names)}.")
    arguments = {name: _decode(hints[name], value[name], file, f"{at}.{name}") for name in names}
    try:
        return kind(**arguments)
    except InputError as error:
        raise BundleError(f"{file}: {error}") from error


def _describe(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) or origin is dict:
        return "an object"
    if origin is tuple:
        return "a list" if args[1:] == (...,) else f"a list of {len(args)}"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    return {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}.get(kind, str(kind))
