"""Folders that jobs have written are removed, whatever jobs made of them."""

import os
import subprocess
import sys
from pathlib import Path

from pushtrain.plumbing.disk.trees import remove_tree

DEEP = """
import os
for _ in range(3000):
    os.mkdir("d" * 20)
    os.chdir("d" * 20)
open("leaf", "w").close()
os.chmod(".", 0)
"""


def test_a_folder_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    """Sixty kilobytes of path; the system takes four at once, and a recursion ends at a thousand."""
    folder = tmp_path / "job"
    folder.mkdir()
    subprocess.run((sys.executable, "-c", DEEP), cwd=folder, check=True)
    try:
        remove_tree(folder)
        assert not folder.exists()
    finally:  # pytest could not remove what is left here, and would fail at the end of every later run
        subprocess.run(("rm", "-rf", folder), check=True)


def test_what_a_removed_folder_links_to_stays_as_it_is(tmp_path: Path) -> None:
    owner, folder = tmp_path / "owner", tmp_path / "job"
    owner.mkdir(mode=0o755)
    (owner / "keep").write_text("the owner's")
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(owner)
    (folder / "sub" / "link").symlink_to(owner / "keep")
    (folder / "sub" / ".going-0").mkdir()
    os.mkfifo(folder / "sub" / "pipe")
    (folder / "sub" / "hard").hardlink_to(owner / "keep")
    (folder / "sub").chmod(0)
    folder.chmod(0)
    remove_tree(folder)
    assert not folder.exists()
    assert (owner / "keep").read_text() == "the owner's"
    assert owner.stat().st_mode & 0o777 == 0o755
    remove_tree(folder)  # once more is no trouble


def test_no_name_that_a_job_has_chosen_keeps_a_folder(tmp_path: Path) -> None:
    """The names under which folders were moved to the top could be foretold, and be taken."""
    for name in ("d0", "d0/.going-1", "d1", ".going-0", ".going-1", ".going-2/.going-3", ".going-3"):
        (tmp_path / "job" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "job" / name / "file").touch()
    remove_tree(tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "keep").touch()
    (tmp_path / "job").symlink_to(tmp_path / "owner")
    remove_tree(tmp_path / "job")
    assert (tmp_path / "owner" / "keep").exists()
