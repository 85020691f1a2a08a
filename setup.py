"""Add the start-up hook to the wheels; all metadata is in pyproject.toml.

The hook is one ``.pth`` file in site-packages: Python executes its line at every interpreter start,
spawned children included. setuptools has no word for such a file, so both commands that end in a
wheel (``bdist_wheel`` for ``pip install .``, ``editable_wheel`` for ``pip install -e .``) are
followed by a step that writes it into the finished wheel and its RECORD. pip then installs and
uninstalls it like any other file of the package.

What the line does, and why so:
(1) unless it is done (a virtual environment runs the line twice), find the package; where it is gone (a checkout that was moved away) nothing happens, silently;
(2) put ``metaseq_plugin.compat`` into ``sys.modules`` as an empty module with the right ``__path__``,
    so that its modules can be imported without the parent package: fairseq skips a ``--user-dir``
    whose package is already imported, and ``metaseq doctor`` must answer where fairseq is broken;
(3) unless METASEQ_PLUGIN_COMPAT=0, ``startup.install()``.
"""

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.editable_wheel import editable_wheel

HOOK_NAME = "metaseq_plugin_hook.pth"
# Names bound here stay inside `site`'s exec. `type(sys)` is ModuleType without importing `types`,
# and _frozen_importlib_external is `importlib.machinery` without its cost.
HOOK_LINE = (
    "import os, sys, _frozen_importlib_external as _mp_import; "
    "_mp_spec = 'metaseq_plugin.compat' not in sys.modules "
    "and _mp_import.PathFinder.find_spec('metaseq_plugin'); "
    "_mp_home = os.path.join(os.path.dirname(_mp_spec.origin), 'compat') "
    "if _mp_spec and _mp_spec.origin else ''; "
    "_mp_compat = type(sys)('metaseq_plugin.compat'); "
    "_mp_compat.__path__ = [_mp_home]; "
    "_mp_home and os.path.isfile(os.path.join(_mp_home, 'startup.py')) and ("
    "sys.modules.__setitem__('metaseq_plugin.compat', _mp_compat), "
    "os.environ.get('METASEQ_PLUGIN_COMPAT') != '0' and "
    "__import__('metaseq_plugin.compat.startup', fromlist=['install']).install())\n"
)


def add_to_wheel(wheel: Path, name: str, content: bytes) -> None:
    """Write ``content`` as the file ``name`` at the root of ``wheel``, listed in its RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    rewritten = wheel.with_suffix(".whl.tmp")
    with (
        zipfile.ZipFile(wheel) as old,
        zipfile.ZipFile(rewritten, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        record = next(
            entry for entry in old.infolist() if entry.filename.endswith(".dist-info/RECORD")
        )
        for entry in old.infolist():
            if entry is not record:
                new.writestr(entry, old.read(entry))
        new.writestr(name, content)
        rows = io.StringIO()
        csv.writer(rows, lineterminator="\n").writerow([name, f"sha256={digest}", len(content)])
        new.writestr(record, rows.getvalue().encode() + old.read(record))
    rewritten.replace(wheel)


class WheelWithHook(bdist_wheel):
    def run(self) -> None:
        super().run()
        for command, _, wheel in self.distribution.dist_files:
            if command == "bdist_wheel":
                add_to_wheel(Path(wheel), HOOK_NAME, HOOK_LINE.encode())


class EditableWheelWithHook(editable_wheel):
    def run(self) -> None:
        super().run()
        for wheel in Path(self.dist_dir).glob("metaseq_plugin-*.whl"):
            add_to_wheel(wheel, HOOK_NAME, HOOK_LINE.encode())


if __name__ == "__main__":
    setup(cmdclass={"bdist_wheel": WheelWithHook, "editable_wheel": EditableWheelWithHook})
