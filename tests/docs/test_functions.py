"""The file, commands and programs of the page on custom functions run."""

import json
import re
from pathlib import Path

import pytest
from support import FUNCTIONS_PAGE, code_blocks, run_block, write_recipes


def shortened(program: str) -> str:
    """Divides the number of updates by ten."""
    return re.sub(r"num_steps=(\d+)00", lambda found: f"num_steps={found[1]}0", program)


@pytest.mark.slow
def test_the_recipes_of_the_page_run(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    in_memory, tracked = write_recipes(tmp_path)
    first, together = code_blocks(FUNCTIONS_PAGE, "sh")
    short = f"{first.rstrip()} --config.train.num_steps=10"
    run_block("sh", short, tmp_path, environment)
    printed = run_block("sh", shortened(together), tmp_path, environment)
    assert "Attention,width=128 on mnist5k" in printed
    assert "Embedding on characters" in printed
    lines = (tmp_path / "runs/attention/metrics.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        assert line["metrics"]["top_k"][0] < line["metrics"]["top_k,k=3"][0] <= 1
    output = run_block("python", shortened(in_memory), tmp_path, environment)
    assert 0.3 < float(output.splitlines()[-1]) <= 1
    pytest.importorskip("tensorboardX")
    run_block("python", shortened(tracked), tmp_path, environment)
    assert list(tmp_path.glob("tensorboard/tracked/events*"))
