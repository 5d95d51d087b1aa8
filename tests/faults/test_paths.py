"""Full disks, and unwritable or unusual workdirs."""

from pathlib import Path

import pytest
import trainer
from support import called, one_line_error, output_of, run_python

pytestmark = pytest.mark.slow


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    new_run: trainer.Run, reference_run: Path
) -> None:
    """A limit on file sizes, which a parameter file exceeds, acts as a full disk."""
    workdir = trainer.copy_of(reference_run, new_run.workdir)
    trainer.cut_back(workdir, trainer.STEPS - 20)
    before = trainer.checksums(workdir, trainer.STEPS - 20)

    program = (
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "runpy.run_module('rnnmnist.main', run_name='__main__')\n"
    )
    argv = "-c", program, *new_run.arguments()
    finished = run_python(*argv, environment=new_run.environment)
    assert finished.returncode == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    line = finished.stderr.splitlines()[-1]  # after warnings of jax, and logs of XLA
    assert line.startswith("error: "), finished.stderr
    assert str(workdir) in line
    assert f"step {trainer.STEPS} cannot be saved in " in line
    assert trainer.checksums(workdir, trainer.STEPS - 20) == before
    new_run.finish()  # removes incomplete files
    trainer.assert_same_end(workdir, reference_run)


def test_an_unwritable_workdir_is_refused_before_training(data_dir: Path) -> None:
    """Even root cannot write into `/proc`."""
    finished = called("main", *trainer.arguments(Path("/proc/rnnmnist"), data_dir))
    assert "/proc/rnnmnist: " in one_line_error(finished)
    assert "loss" not in finished.stdout


def test_a_workdir_can_be_relative_or_in_the_home_folder(
    reference_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    trainer.copy_of(reference_run, tmp_path / "数字" / "run")
    trainer.copy_of(reference_run, tmp_path / "home" / "run")
    for workdir in ("数字/run", "~/run"):
        output_of(called("evaluate", f"--workdir={workdir}"))
    assert not (tmp_path / "~").exists()
