#!/usr/bin/env bash
# Prints what users and scripts see of a clone with its own .venv: the help of every
# command, the JSON of every record, and the answer to each command of a list.
#
#   bash tools/snapshot.sh CLONE [LIST] > FILE
#
# LIST holds lines of an exit code and a command. Each issue that simplifies the package
# compares its last commit with the one below, the last before the first of them.
BASE=e04d1c7436db5fe870c3e47b75f14ef465594bd0
[ $# -gt 0 ] || { echo "usage: $0 CLONE [LIST], compared with $BASE" >&2; exit 2; }
clone=$(realpath "$1") list=${2:+$(realpath "$2")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMP=$work/files RUN=$work/run SEQ=$work/seq SEEDS=$work/seeds NEW=$work/new
cd "$clone" || exit 2

run() { .venv/bin/python -m rnnmnist."$@" 2>&1 </dev/null; }
normalize() { sed -E "s#$work#WORK#g; s#$clone#CLONE#g; s# +[0-9,.]+ (images|sequences)/s##"; }

print_json() { # the JSON of these files with sorted keys, without times, speeds and versions
  .venv/bin/python - "$work" "$@" <<'P'
import json, pathlib, sys
VARIABLE = {"time", "hardware", "versions", "examples_per_second", "seconds"}
def clean(value):
    if isinstance(value, dict):
        return {k: "…" if k in VARIABLE else clean(v) for k, v in value.items()}
    return [clean(one) for one in value] if isinstance(value, list) else value
for path in sys.argv[2:]:
    print(f"-- {pathlib.Path(path).relative_to(sys.argv[1])}")
    text = pathlib.Path(path).read_text()
    for line in text.splitlines() if path.endswith("l") else [text]:
        print(json.dumps(clean(json.loads(line)), sort_keys=True, indent=1))
P
}

echo "== help"
for command in main evaluate predict export report page verify doctor; do
  echo "-- $command" && COLUMNS=80 run $command --help
done

echo "== records"
mkdir "$TMP" && .venv/bin/python - "$TMP" <<'P'
import sys, numpy as np
from pathlib import Path
folder, random = Path(sys.argv[1]), np.random.default_rng(0)
x, y = random.normal(size=(60, 8, 2)).astype("f4"), np.array([*"abc"])[np.arange(60) % 3]
objects = np.array([[1], [2, 3]], dtype=object)
for name, fields in {"seq": {}, "other": {"inputs": x + 1}, "nan": {"inputs": np.where(x > 2, np.nan, x)},
                     "object": {"inputs": objects, "labels": y[:2]},
                     "other_lengths": {"lengths": np.full(60, 9)}}.items():
    np.savez(folder / f"{name}.npz", **{"inputs": x, "labels": y} | fields)
content = (folder / "seq.npz").read_bytes()
(folder / "truncated.npz").write_bytes(content[: len(content) // 2])
(folder / "no_data_line.ts").write_text("@problemName x\n@classLabel true a b\n1,2,3:a\n")
for name, change in {"one_class": lambda i, k: (k, i + k, "a"),
                     "text_in_a_feature": lambda i, k: (k, "x" if i == 2 else i, "ab"[i % 2]),
                     "same_time_twice": lambda i, k: (k * (i != 2), i + k, "ab"[i % 2]),
                     "other_features": lambda i, k: (k, i + k, "ab"[i % 2])}.items():
    rows = [f"s{i},{','.join(map(str, change(i, k)))}" for i in range(6) for k in range(3)]
    (folder / f"{name}.csv").write_text("\n".join(["sequence,time,x,label", *rows]) + "\n")
P
short="--config.train.num_steps=20 --config.train.eval_every_steps=10"
{ run main --config=embedded --workdir="$RUN" $short
  run main --config=tutorial --config.data.name=mnist5k --workdir="$SEEDS" --config.num_seeds=2 $short
  run main --config=files --config.data.path="$TMP/seq.npz" --workdir="$SEQ" $short
} | normalize
for folder in "$RUN" "$SEEDS" "$SEQ"; do run evaluate --workdir="$folder" --split=validation; done | normalize
run export --workdir="$RUN" --format=safetensors --output="$work/export" | normalize
run predict --workdir="$RUN" --json docs/five.jpg > "$work/image.jsonl"
run predict --workdir="$SEQ" --json "$TMP/other.npz" | head -n 2 > "$work/sequence.jsonl"
print_json $(find "$work" \( -name '*.json' -o -name '*.jsonl' -o -name metadata -o -name metrics -type f \) \
  -not -path '*/params/*' -not -path '*/state/*' -not -path '*/d/*' | sort) | normalize

echo "== answers"
[ -z "$list" ] || grep -v '^#' "$list" | while read -r code command; do
  rm -rf "$NEW"
  eval "run ${command#python -m rnnmnist.}" > "$work/out"; status=$?
  echo "$code $status $([ -e "$NEW" ] && echo CREATED) $command"
  grep -v '^resuming\|^I0' "$work/out" | normalize
done
