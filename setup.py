# SPDX-License-Identifier: Apache-2.0
"""One ament_python package that is also a plain pip package.

All metadata are here and not in pyproject.toml: the setuptools of Humble does not read them there, and colcon fails on what newer
ones make of requires-python.
"""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "longscape_ros"
ROOT = Path(__file__).resolve().parent  # colcon build --symlink-install runs a link to this file

for link in ("model", "export", "interfaces"):
    if not (ROOT / NAME / link).is_dir():
        raise SystemExit(
            f"{NAME}/{link} is not a directory. It is a symbolic link in git that this checkout lost; "
            "clone again with: git clone -c core.symlinks=true ..."
        )

EMBEDDED = ["cyclonedds>=11; python_version < '3.14'"]
SIM = ["metaworld==3.1.1", "mujoco==3.3.0", "packaging"]
VIDEO = ["av>=12", "pillow>=10"]
DEMO = [*EMBEDDED, *SIM, *VIDEO]
VIEW = ["rerun-sdk>=0.39"]
ON_PC = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
RTX = [f"onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0{ON_PC}", f"tensorrt-rtx-cu13-bindings==1.7.1.116{ON_PC}"]
"""Libraries and bindings of TensorRT-RTX, whose versions must be equal: 1.7.1.116."""
COLCON = ["colcon-common-extensions>=0.3", "colcon-ros>=0.4"]
TRAIN = ["torch>=2.6", "einops>=0.8", "onnxscript>=0.5", "tensorboard>=2.14"]


def share(*folders: str) -> list[tuple[str, list[str]]]:
    """The files of each folder, to be installed under share/longscape_ros."""
    return [(f"share/{NAME}/{folder}", [str(f) for f in sorted(Path(folder).iterdir()) if f.is_file()]) for folder in folders]


setup(
    name=NAME,
    version="0.1.0",
    description="Predicts what a robot's camera will see from its commanded actions: action-guided chunks, diffusion inside a chunk, "
    "experts per chunk. A ROS 2 node that also runs without ROS.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="longscape_ros maintainers",
    maintainer_email="maintainers@longscape.dev",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"], exclude=[f"{NAME}.interfaces*"]),
    package_data={
        NAME: ["py.typed", "interfaces/msg/*.msg", "interfaces/package.xml", "bundles/*/*", "bags/mappings/*.yaml", "simulation/*.yaml"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *share("launch", "config"),
    ],
    install_requires=[
        "numpy>=1.21",
        "onnx>=1.17",
        "onnxruntime>=1.19",
        "pyyaml>=6",
        "rosbags>=0.10.9",
        "rosbags-image[opencv-headless]>=0.10.4",
        "rich>=13",
    ],
    extras_require={
        "embedded": EMBEDDED,
        "sim": SIM,
        "video": VIDEO,
        "demo": DEMO,
        "view": VIEW,
        "train": TRAIN,
        "tensorrt": ["tensorrt>=10.1", "cupy-cuda13x>=13.6"],
        "tensorrt-rtx": [*RTX, f"cupy-cuda13x>=13.6{ON_PC}"],
        "gpu": ["onnxruntime-gpu>=1.19", "cupy-cuda12x>=13.6"],
        "test": [
            *DEMO, *VIEW, *TRAIN, *RTX, *COLCON,
            "pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6", "ruff", "mypy", "setuptools>=64", "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "longscape = longscape_ros.cli:main",
            "longscape_predictor = longscape_ros.nodes.predictor:main",
            "longscape_recorder = longscape_ros.nodes.recorder:main",
        ],
    },
    zip_safe=True,
)
