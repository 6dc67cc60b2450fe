# SPDX-License-Identifier: Apache-2.0
"""One ament_python package that is also a plain pip package."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "longscape_ros"
ROOT = Path(__file__).parent

for link in ("model", "export", "interfaces"):
    if not (ROOT / NAME / link).is_dir():
        raise SystemExit(
            f"{NAME}/{link} is not a directory. It is a symbolic link in git that this checkout lost; "
            "clone again with: git clone -c core.symlinks=true ..."
        )


def share(*folders: str) -> list[tuple[str, list[str]]]:
    """The files of each folder, to be installed under share/longscape_ros."""
    return [(f"share/{NAME}/{folder}", [str(f) for f in sorted(Path(folder).iterdir()) if f.is_file()]) for folder in folders]


setup(
    packages=find_packages(include=[NAME, f"{NAME}.*"], exclude=[f"{NAME}.interfaces*"]),
    package_data={
        NAME: ["py.typed", "interfaces/msg/*.msg", "interfaces/package.xml", "bundles/*/*", "bags/mappings/*.yaml", "simulation/*.yaml"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *share("launch", "config"),
    ],
    zip_safe=True,
)
