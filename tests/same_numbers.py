"""Are the numbers still the same? Drives run.py of any checkout, by its command line alone, on the built-in data.

python tests/same_numbers.py make --repo DIR --work FOLDER --out numbers.json    small runs of everything; kept in FOLDER/kept
python tests/same_numbers.py old --repo DIR --work FOLDER --out old.json         what DIR's code does with a copy of FOLDER/kept
python tests/same_numbers.py compare a.json b.json                               each difference; exit status 1 if there is any

Run by the Python of .venv. Left out: times, memory, commit, versions; of PDF files and of pages, all but names and headings.
"""

import argparse
import csv
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

JOBS = 2  # commands at the same time
TRAIN = "--image_size 32 --batch_size 32 --precision fp32 --device cpu --seed 0 --log_every 1"
DINO = "--out_dim 64 --hidden_dim 64 --bottleneck_dim 32 --local_crops 2"
KNN, PROBE = "--evals knn", "--linear_lrs 0.1 1 --linear_epochs 3"
BOTH = f"--evals knn linear {PROBE}"
NANO = f"{TRAIN} --data demo --backbone vit_nano --budget images=96 --knn_every 1"
FOLDER = f"{TRAIN} --data imagefolder --data_root data/imagefolder --backbone vit_nano --epochs 2 --batch_size 16 --knn_every 1"
DEVICE, FLOAT = "--device cpu", "--device cpu --precision fp32"
SMALL_FOLDER = "--data imagefolder --data_root data/imagefolder --image_size 32"
SEEN, PICTURES = "evaluate --weights runs/dino --out evaluated", f"--out pictures {DEVICE}"
RUNS = {
    "barlow_twins": f"{NANO} {BOTH} --projector 32-32-32",
    "byol": f"{NANO} {KNN} --projector 64-32 --predictor_dim 64",
    "dino": f"{NANO} {BOTH} {DINO}",
    "mocov2": f"{NANO} {KNN} --projector 64-32 --queue 128",
    "mocov3": f"{NANO} {KNN} --projector 64-64-32 --predictor_dim 64",
    "pixels": f"{TRAIN} --data demo {BOTH}",
    "random": f"{NANO} {BOTH}",
    "simclr": f"{NANO} {KNN} --projector 64-32",
    "supcon": f"{NANO} {KNN} --projector 64-32",
    "supervised": f"{NANO} {KNN} --label_fraction 0.5",
    "swav": f"{NANO} {KNN} --projector 64-32 --prototypes 16 --freeze_prototypes 1 --local_crops 2",
    "vicreg": f"{NANO} {KNN} --projector 32-32-32",
    "weak_dino": f"{NANO} {KNN} {DINO} --label_fraction 0.2",
    "dino,cifar": f"{TRAIN} {DINO} --data demo --backbone resnet18_cifar --budget images=64 --knn_every 0",
    "barlow_twins,cifar": f"{TRAIN} --data demo --backbone resnet18_cifar --budget images=64 --knn_every 0 --projector 32-32",
    "dino,pairs": f"{NANO} {DINO} --pairing same_label --label_fraction 0.1 --accumulate 2 --centering sinkhorn_knopp",
    "dino,switches": f"{NANO} {DINO} --centering none --predictor True --loss mse --use_bn_in_head True --optimizer lars"
    " --freeze_last_layer 0 --clip_mode global --schedule poly --teacher copy",
    "dino,bf16": f"{NANO} {DINO} --precision bf16 --norm_last_layer False --centering softmax",
    "dino,t16": f"{TRAIN} {DINO} --data demo --backbone vit_t16 --budget images=64 --knn_every 0",
    "barlow_twins,sgd": f"{NANO} --projector 32-32 --accumulate 2 --optimizer sgd --visualize attention pca crops neighbours",
    "dino,folder": f"{FOLDER} {DINO} {KNN} --keep_checkpoints 3",
    "barlow_twins,folder": f"{FOLDER} --projector 32-32 --stream True --keep_checkpoints 3",
}
NEEDS_RUNS = {"dino,init": f"{NANO} {DINO} {KNN} --init runs/dino"}
GRID = f"compare --methods dino barlow_twins --backbones vit_nano resnet18 --seeds 0 --jobs 2 {TRAIN} --data demo {DINO} {KNN}"
GRID += " --budget images=64 --projector 32-32-32 --knn_every 0 --out grid"
HEADS = f"--data voc2012 --data_root data/voc2012 --image_size 32 {FLOAT} --epochs 2 --batch_size 16"
ALL_HEADS = "--heads linear linear_pixels setr_naive setr_pup setr_mla deeplabv3"
FEW = f"--linear_authors_epochs 1 --linear_authors_lrs 0.01 {PROBE}"
MANY = f"--evals knn linear knn_low_shot retrieval attention_jaccard linear_authors finetune {FEW}"
MANY += " --finetune_fractions 0.02 --finetune_epochs 1 --finetune_batch_size 16"
RESNET = "grid/runs/barlow_twins-resnet18-seed0"
LATER = {  # what looks at runs
    "evaluate/dino": f"{SEEN}/dino {FLOAT} {MANY} --finetune_lrs 0.0003 0.001",
    "evaluate/student": f"{SEEN}/student --key student {DEVICE} --precision bf16 {KNN}",
    "evaluate/untrained": f"evaluate --backbone timm:resnet10t --out evaluated/untrained {SMALL_FOLDER} {FLOAT} {BOTH}",
    "evaluate/svm": f"{SEEN}/svm --data voc2007 --data_root data/voc2007 {FLOAT} --evals svm linear {PROBE}",
    "evaluate/voc": f"{SEEN}/voc --data voc2012 --data_root data/voc2012 {FLOAT} --evals segmentation"
    " --segmentation_heads linear --segmentation_epochs 1",
    "evaluate/davis": f"{SEEN}/davis --data davis --data_root data/davis {FLOAT} --evals davis"
    " --davis_size 32 --davis_n_last_frames 2 --davis_size_mask_neighborhood 2",
    "evaluate/copydays": f"{SEEN}/copydays --data copydays --data_root data/copydays {FLOAT}"
    " --evals copydays --copydays_size 32",
    "evaluate/revisited": f"{SEEN}/revisited --data roxford5k --data_root data {FLOAT} --evals revisited"
    " --revisited_size 40 --revisited_multi_scale True",
    "segment/heads": f"segment --weights runs/dino --out segmented/heads {HEADS} {ALL_HEADS} --auxiliary 0.4",
    "segment/tuned": f"segment --weights runs/barlow_twins --out segmented/tuned {HEADS} --heads linear setr_naive"
    " --finetune True --scale 0.5 2 --distort True --loss cross_entropy dice=0.5 focal jaccard"
    " --test_mode slide --test_flip True",
    "segment/resnet": f"segment --weights {RESNET} --out segmented/resnet {HEADS} --heads deeplabv3",
    "visualize/attention": f"visualize attention --weights runs/dino {PICTURES}",
    "visualize/field": f"visualize receptive_field --weights runs/dino {RESNET} --count 2 {PICTURES}",
    "visualize/correlation": f"visualize cross_correlation runs/dino runs/barlow_twins {PICTURES}",
    "visualize/recompute": "visualize cross_correlation runs/swav --recompute True --count 64 --palette study"
    f" --out pictures/recomputed {DEVICE}",
    "visualize/pca": f"visualize pca --weights runs/dino {PICTURES}",
    "visualize/neighbours": f"visualize neighbours --weights runs/dino --precision fp32 {PICTURES}",
    "visualize/embedding": f"visualize embedding --weights runs/dino --count 200 --precision fp32 {PICTURES}",
    "visualize/crops": "visualize crops --run runs/weak_dino --out pictures",
    "visualize/collapse": "visualize collapse runs/dino runs/barlow_twins --out pictures",
    "export/dino": "export --weights runs/dino,t16 --format dino --out exported/dino.pth",
    "export/dino_full": "export --weights runs/dino,t16 --format dino_full --out exported/dino_full.pth",
    "export/timm": "export --weights runs/dino,t16 --format timm --out exported/timm.safetensors",
    "export/barlow_full": f"export --weights {RESNET} --format barlow_twins_full --out exported/barlow_full.pth",
    "export/torchvision": f"export --weights {RESNET} --format torchvision --out exported/torchvision.pth",
    "status": "status grid",
}
LAST = {
    "report": "report " + " ".join(f"runs/{name}" for name in [*RUNS, *NEEDS_RUNS]) + " --out report",
    "report/evaluated": "report evaluated/dino evaluated/untrained evaluated/davis segmented/heads --out report-evaluated",
    "evaluate/exported": f"evaluate --weights exported/dino_full.pth --backbone vit_t16 --out evaluated/exported"
    f" {SMALL_FOLDER} {FLOAT} {KNN}",
    "evaluate/exported_resnet": "evaluate --weights exported/torchvision.pth --backbone resnet18"
    f" --out evaluated/exported_resnet {SMALL_FOLDER} {FLOAT} {KNN}",
}
TALK = {  # quick commands, of which everything that they say is compared
    **{f"data/{name}": f"data {name} --data_root data/{name}" for name in ("imagefolder", "voc2007", "voc2012")},
    "data/demo": "data demo",
    "plan": f"--method dino {NANO} {DINO} --dry_run True",
    "reproduce": "reproduce --list True",
    "reproduce/plan": "reproduce barlow_twins/table5 --data_root data/imagefolder --dry_run True",
    "grid/plan": "compare --grid REPO/experiments/demo.yaml --dry_run True --out none",
}
ERRORS = """--method x; --method dino --lrr 1; evaluate --evals x; visualize x; --backbone x; --method dino --epochs -1;
segment --heads x --data demo; report nowhere; status nowhere; evaluate --weights nowhere --evals knn; reproduce x/y;
--method pixels --backbone vit_nano; frobnicate; compare; export --out x.pth; data x"""
TALK |= {f"error/{words}": words for words in ERRORS.replace("\n", " ").split("; ")}
EVALUATIONS = "attention_jaccard copydays davis finetune knn knn_low_shot linear linear_authors retrieval revisited svm"
KINDS = "attention collapse crops cross_correlation embedding neighbours pca receptive_field"
HELP = ["", "evaluate", "segment", "compare", "status", "reproduce", "report", "data", "export", "visualize"]
HELP += [f"--method {name}" for name in RUNS if "," not in name]
HELP += [f"evaluate --evals {names}" for names in (EVALUATIONS, "segmentation")]
HELP += [f"visualize {name}" for name in KINDS.split()]
CUT = ("dino,folder", "barlow_twins,folder")
TEXTS = (".json", ".jsonl", ".yaml", ".csv", ".md", ".tex", ".html", ".txt")
TIMES = {"seconds", "minutes", "images_per_second", "peak_memory_gib", "finished", "seconds_per_frame", "started"}
TIMES |= {"Device-minutes", "Evaluation, minutes", "Images/s", "Peak memory (GiB)", "Commit", "Finished", "Packages"}
TIMES |= {"Hardware", "Python"}


def training(name, words):
    return f"--method {name.split(',')[0]} {words} --out runs/{name}"


def run(repo, folder, words):
    """(exit status, what was said, what was said on the error stream), of one command in ``folder``."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XDG_CACHE_HOME")}
    environment |= {"SSL_COMPARE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "5000"}
    words = words.replace("REPO", str(repo)).split()
    done = subprocess.run([sys.executable, repo / "run.py", *words], cwd=folder, env=environment, capture_output=True)
    said = []
    for stream in (done.stdout, done.stderr):
        text = stream.decode().replace(str(folder), "WORK").replace(str(repo), "REPO")
        # How often progress is told depends on the time, keys of stores on the folder.
        text = re.sub(r"^writing the report ….*\n|-[0-9a-f]{12}(?=[,/ ]|$)", "", text, flags=re.MULTILINE)
        said.append(re.sub(r" {2,}|─+|━+", " ", re.sub(r"[\d.]+ (min(utes)?|s)\b", "", text)))
    print(f"{done.returncode}  {' '.join(words)[:150]}", said[1][-1500:] if done.returncode else "", file=sys.stderr)
    return done.returncode, *said


def run_all(repo, folder, commands):
    with ThreadPoolExecutor(JOBS) as pool:
        return dict(zip(commands, pool.map(lambda words: run(repo, folder, words), commands.values()), strict=True))


def small_data(folder):
    """Tiny data sets in every layout, of the built-in scenes and of squares that move."""
    scenes = next((folder / "cache").glob("demo-*/labels.csv")).parent
    rows = csv.DictReader((scenes / "labels.csv").read_text().splitlines())
    labels = {row["name"]: int(row["label"]) for row in rows}
    voc, data = scenes / "VOCdevkit" / "VOC2012", folder / "data"
    new, old = data / "voc2012" / "VOCdevkit" / "VOC2012", data / "voc2007" / "VOCdevkit" / "VOC2007"

    def put(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    for split, old_split, count in (("train", "trainval", 64), ("val", "test", 32)):
        names = sorted(name for name in labels if Path(name).stem.startswith(f"{split}_"))[:count]
        stems = [Path(name).stem for name in names]
        put(new / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(stems) + "\n")
        put(old / "ImageSets" / "Main" / f"{old_split}.txt", "\n".join(stems) + "\n")
        for number, (name, stem) in enumerate(zip(names, stems, strict=True)):
            image, label = (voc / "JPEGImages" / f"{stem}.jpg").read_bytes(), labels[name]
            for path in (new / "JPEGImages", old / "JPEGImages", data / "imagefolder" / split / f"class{label}"):
                put(path / f"{stem}.jpg", image)
            put(new / "SegmentationClass" / f"{stem}.png", (voc / "SegmentationClass" / f"{stem}.png").read_bytes())
            objects = {("cat", "dog", "cow")[label % 3], ("dog", "bird")[label % 2]}
            xml = "".join(f"<object><name>{item}</name><difficult>0</difficult></object>" for item in sorted(objects))
            put(old / "Annotations" / f"{stem}.xml", f"<annotation>{xml}</annotation>")
            if split == "val" and number < 12:
                put(data / "copydays" / "original" / f"{2000 + number}00.jpg", image)
                put(copy := data / "copydays" / "strong" / f"{2000 + number}01.jpg", b"")
                Image.open(voc / "JPEGImages" / f"{stem}.jpg").save(copy, quality=5)
            if split == "val":
                put(data / "roxford5k" / "jpg" / f"image{number}.jpg", image)
    gnd = [{"bbx": [4.0, 4.0, 36.0, 36.0], "easy": [5, 9 + q], "hard": [11 + q, 16], "junk": [20]} for q in range(3)]
    truth = {"imlist": [f"image{i}" for i in range(3, 32)], "qimlist": [f"image{i}" for i in range(3)], "gnd": gnd}
    put(data / "roxford5k" / "gnd_roxford5k.pkl", pickle.dumps(truth, protocol=2))
    put(data / "davis" / "ImageSets" / "2017" / "val.txt", "one\ntwo\n")
    for video, seed in (("one", 1), ("two", 2)):
        for frame in range(5):
            mask = np.zeros((34, 70), np.uint8)
            for number in range(seed):
                mask[8:22, 6 + 30 * number + 2 * frame : 20 + 30 * number + 2 * frame] = number + 1
            pixels = np.random.default_rng([seed, frame]).normal(60, 10, (34, 70, 3)) + 80 * mask[..., None]
            image, mask = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), Image.fromarray(mask)
            mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            for kind, picture, end in (("JPEGImages", image, "jpg"), ("Annotations", mask, "png")):
                put(path := data / "davis" / kind / "480p" / video / f"{frame:05d}.{end}", b"")
                picture.save(path)


def flat(value, key=""):
    """(key, plain value) of everything in nested containers; arrays as digests; without times."""
    if isinstance(value, dict):
        if value.get("metric") == "seconds_per_frame":
            value = {**value, "value": None}
        for name, item in sorted(value.items(), key=lambda pair: str(pair[0])):
            yield from flat(item, f"{key}/{name}") if name not in TIMES else ()
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from flat(item, f"{key}/{number}")
    elif isinstance(value, (np.ndarray, torch.Tensor)):
        about = f"{value.dtype}{list(value.shape)}"
        if isinstance(value, torch.Tensor):
            value = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        yield key, f"{about} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]}"
    elif value is None or isinstance(value, (bool, int, float)):
        yield key, value
    else:
        text = re.sub(r"/\S*/now/", "", str(value))  # where the folder lies
        text = re.sub(
            r"\b[0-9a-f]{64}\b|(?<= \()[0-9a-f]{8}(?=\))", "DIGEST", text
        )  # of a checkpoint, which holds times
        yield key, "a speed" if "s/frame" in text or "seconds_per_frame" in text else text


def whole(value):
    return hashlib.sha256(json.dumps(list(flat(value))).encode()).hexdigest()[:16]


def numbers_in(path):
    """What a file holds, as far as it is the same each time."""
    text = path.read_text() if path.suffix in TEXTS else ""
    if (
        path.name in ("environment.json", "lock")
        or path.suffix in (".log", ".pdf")
        or path.stem.startswith("cost-and-accuracy")
    ):
        return "there"
    if path.suffix in (".pt", ".pth"):
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
        return {name: whole(item) for name, item in held.items() if name not in TIMES}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return whole(load_file(path))
    if path.suffix in (".npz", ".npy"):
        held = np.load(path)
        if path.suffix == ".npz":  # a store's "about" holds when its source's files were written
            return whole({name: held[name] for name in held if name != "about"})
        return whole(held)
    if path.suffix in (".png", ".gif", ".jpg"):
        image = Image.open(path)
        return f"{image.size} {hashlib.sha256(image.convert('RGB').tobytes()).hexdigest()[:16]}"
    if path.suffix == ".yaml":
        return yaml.safe_load(text)
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    if path.suffix == ".html":
        return re.findall(r"<h[1-4][^>]*>([^<]*)", text)
    if path.stem in ("cost", "provenance"):
        return list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else len(text.splitlines())
    if path.stem == "options":  # their order is that of the code
        return sorted(text.splitlines())
    return text.splitlines() if text else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def collect(folder):
    """Everything that was written but the built-in scenes; names in the cache without their digests."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not re.match("data/|cache/demo-[0-9a-f]{12}/", name):
            if name.startswith("cache/"):
                name = re.sub(r"-[0-9a-f]{12}(?=/)|-[0-9a-f]{16}(?=\.bin$)", "", name)
            found |= dict(flat(numbers_in(path), name))
    scenes = [path.read_bytes() for path in sorted(folder.glob("cache/demo-*/VOC*/**/*")) if path.is_file()]
    return found | {"scenes": f"{len(scenes)} {hashlib.sha256(b''.join(scenes)).hexdigest()[:16]}"}


def help_of(repo, folder):
    """Each command's options with their values and defaults, without the prose."""
    found = {}
    for words, (status, text, _) in run_all(repo, folder, {words: f"{words} --help" for words in HELP}).items():
        key, joined = f"help/{words}", re.sub(r"\n (?![ -])|\n  +", " ", text)
        found[f"{key}/status"] = status
        found[f"{key}/usage"] = " ".join(sorted(text.split("\n\n")[0].split()))
        defaults = re.findall(r"^ (--\S+).*\(default: (.*)\)$", joined, re.M)
        found |= {f"{key}/{option}": default for option, default in defaults}
    return found


def said_by(results):
    """Exit statuses, and what was said, but for speeds."""
    found = {}
    for name, (status, out, errors) in results.items():
        errors = [line for line in errors.splitlines() if "images/s" not in line]
        found |= dict(flat({"status": status, "out": out.splitlines(), "errors": errors}, f"said/{name}"))
    return found


def make(repo, work):
    folder = work / "now"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results = run_all(repo, folder, {"data/demo": "data demo"})
    small_data(folder)
    found = help_of(repo, folder) | said_by(run_all(repo, folder, TALK))
    for trainings in (RUNS, NEEDS_RUNS):
        results |= run_all(repo, folder, {f"train/{name}": training(name, words) for name, words in trainings.items()})
    results |= run_all(repo, folder, {"compare": GRID})
    results |= run_all(repo, folder, LATER) | run_all(repo, folder, LAST)
    for name, (status, out, _) in results.items():
        found |= dict(flat({"status": status, "out": out.splitlines()}, f"said/{name}"))
    found |= collect(folder)
    shutil.rmtree(work / "kept", ignore_errors=True)
    folder.rename(work / "kept")
    return found


def old(repo, work):
    """Runs, grids and stores of other code, continued, reused and read. The copy has the place that they were made at."""
    folder = work / "now"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["cp", "-a", work / "kept", folder], check=True)
    for name in CUT:  # as if stopped after its first epoch
        checkpoints, log = folder / "runs" / name / "checkpoints", folder / "runs" / name / "log.jsonl"
        first = min(int(path.stem.split("-")[1]) for path in checkpoints.glob("step-*.pt"))
        (checkpoints / "last.pt").unlink()
        shutil.copy2(checkpoints / f"step-{first}.pt", checkpoints / "last.pt")
        log.write_text("".join(line for line in log.open() if json.loads(line)["step"] <= first))

    def times():
        paths = [path for part in ("cache", "runs", "grid/runs") for path in (folder / part).rglob("*")]
        paths = [path for path in paths if path.is_file() and path.name != "lock"]
        return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}

    before = times()
    trainings = {f"train/{name}": training(name, words) for name, words in (RUNS | NEEDS_RUNS).items()}
    results = run_all(repo, folder, trainings) | run_all(repo, folder, {"compare": GRID})
    results |= run_all(repo, folder, {name: words for name, words in LATER.items() if "recompute" not in name})
    again = f"evaluate --weights runs/dino --out evaluated/again {FLOAT} --again True {BOTH}"
    results |= run_all(repo, folder, LAST | {"evaluate/again": again})
    after = times()
    changes = {name: "written anew" if name in before else "new" for name in after if after[name] != before.get(name)}
    changes |= {name: "gone" for name in before if name not in after}
    found = said_by(results) | {f"changed/{name}": how for name, how in changes.items()} | collect(folder)
    shutil.rmtree(folder)
    return found


def compare(first, second):
    first, second = (json.loads(Path(path).read_text()) for path in (first, second))
    differing = 0
    for key in sorted(first | second):
        a, b = (json.dumps(found[key], ensure_ascii=False) if key in found else "nothing" for found in (first, second))
        if a != b:
            print(f"{key}: {a} → {b}")
            differing += 1
    print(f"{len(first)} and {len(second)} numbers; {differing} differ")
    return differing > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "old"):
        command = commands.add_parser(name)
        for option in ("--repo", "--work", "--out"):
            command.add_argument(option, type=lambda text: Path(text).resolve(), required=True)
    command = commands.add_parser("compare")
    command.add_argument("files", nargs=2)
    options = parser.parse_args()
    if options.command == "compare":
        return compare(*options.files)
    found = {"make": make, "old": old}[options.command](options.repo, options.work)
    options.out.write_text(json.dumps(found, indent=0, sort_keys=True, ensure_ascii=False))
    failed = [key for key, value in found.items() if key.endswith("/status") and value and "/error/" not in key]
    print(f"{len(found)} numbers in {options.out}; failed: {', '.join(failed) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
