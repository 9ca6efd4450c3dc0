"""Data sets that Hugging Face's library reads, offline, from files made here."""

import importlib.util
import io
import sys
import tarfile

import numpy as np
import pytest

from common.errors import UsageError, UserError
from data.datasets import list_images, open_dataset, splits_of
from data.sets import hf
from data.sets.core.base import DATASETS
from data.store.open import open_store
from tests.small_images import encoded
from tests.small_runs import small_run

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs the extra hf, as .ci/run does"
)


@pytest.fixture(autouse=True)
def _own_library_cache(tmp_path, monkeypatch):
    """The library writes tables of what it reads; nothing of a test may meet what another has left."""
    hf._load.cache_clear()
    if importlib.util.find_spec("datasets"):
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
        datasets.disable_progress_bars()


def opened(name, split="train"):
    return open_dataset(name, split, None, None, progress=False)


@pytest.fixture
def columns(photo):
    """Columns as parquet files have them: images as structs, and labels of several kinds."""
    images = [photo(20 + i, 30, i) for i in range(8)]
    names = [f"photo{i}.png" for i in range(8)]
    structs = [{"bytes": encoded(image, "PNG"), "path": name} for image, name in zip(images, names, strict=True)]
    return images, {"picture": structs, "label": [i % 2 for i in range(8)], "word": list("abacabad")}


def write_parquet(folder, columns, rows, name, features=None):
    import datasets

    folder.mkdir(exist_ok=True)
    part = {key: [values[i] for i in rows] for key, values in columns.items()}
    datasets.Dataset.from_dict(part, features=features).to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))


@pytest.fixture
def parquet(tmp_path, columns):
    """A folder with the hub's layout of parquet files, whose types say what is an image and what a class."""
    import datasets

    types = {
        "picture": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "word": datasets.Value("string"),
    }
    for name, rows in (("train", range(6)), ("validation", range(6, 8))):
        write_parquet(tmp_path / "parquet", columns[1], rows, name, datasets.Features(types))
    return tmp_path / "parquet"


@needs_datasets
def test_parquet_with_types(parquet, columns):
    images, _ = columns
    train, test = opened(f"hf:{parquet}"), opened(f"hf:{parquet}", "test")
    assert (len(train), len(test), train.classes) == (6, 2, ("cat", "dog"))
    assert train.labels.tolist() == [0, 1] * 3 and test.labels.tolist() == [0, 1]
    assert all(np.array_equal(train.image(i), np.asarray(images[i])) for i in range(6))
    assert np.array_equal(test.original_image(1), np.asarray(images[7]))
    assert train.names[:2] == ["train/0000000-photo0.png", "train/0000001-photo1.png"]
    assert opened(f"hf:{parquet}").fingerprint == train.fingerprint
    assert splits_of(f"hf:{parquet}", None) == ("train", "test")


@needs_datasets
def test_columns_and_splits_by_name(parquet):
    named = opened(f"hf:{parquet},label=word,test=train")
    assert named.classes == ("a", "b", "c") and named.labels.tolist() == [0, 1, 0, 2, 0, 1]
    with pytest.raises(UserError, match="1 classes have no training image: d"):
        opened(f"hf:{parquet},label=word", "test")
    with pytest.raises(
        UserError, match=r"no column 'breed'; its columns are picture \(Image\), label \(ClassLabel\), word"
    ):
        opened(f"hf:{parquet},label=breed")
    with pytest.raises(UserError, match="the column word holds no images"):
        opened(f"hf:{parquet},image=word")
    with pytest.raises(UserError, match="no split 'dev'; its splits are train, validation"):
        opened(f"hf:{parquet},test=dev", "test")
    with pytest.raises(UsageError, match=r"unknown option of .* 'lable'; did you mean label"):
        opened(f"hf:{parquet},lable=word")


@needs_datasets
def test_parquet_without_types(tmp_path, columns):
    """As pandas writes it: images are structs with bytes, and labels whole numbers."""
    images, content = columns
    write_parquet(tmp_path / "plain", content, range(8), "train")
    store = opened(f"hf:{tmp_path / 'plain'}")
    assert store.classes == ("0", "1") and store.labels.tolist() == [0, 1] * 4
    assert np.array_equal(store.image(3), np.asarray(images[3]))
    assert splits_of(f"hf:{tmp_path / 'plain'}", None) == ("train",)
    with pytest.raises(UserError, match=r"no test images .its splits are train.; name a split by .*,test=SPLIT"):
        opened(f"hf:{tmp_path / 'plain'}", "test")


@needs_datasets
def test_several_columns_that_fit_have_to_be_chosen_from(tmp_path, columns):
    import datasets

    _, content = columns
    two = {
        "first": content["picture"],
        "second": content["picture"],
        "fine": content["label"],
        "coarse": content["label"],
    }
    classes = datasets.ClassLabel(names=["cat", "dog"])
    types = {"first": datasets.Image(), "second": datasets.Image(), "fine": classes, "coarse": classes}
    write_parquet(tmp_path / "two", two, range(8), "train", datasets.Features(types))
    with pytest.raises(UserError, match=r"2 columns may be the image; name it by .*,image=COLUMN"):
        opened(f"hf:{tmp_path / 'two'}")
    with pytest.raises(UserError, match="2 columns may be the label"):
        opened(f"hf:{tmp_path / 'two'},image=first")
    assert len(opened(f"hf:{tmp_path / 'two'},image=first,label=fine")) == 8


@needs_datasets
@pytest.mark.parametrize(("labels", "kind"), [([0.0, 1.5] * 4, "float"), ([[], [1]] * 4, "list")])
def test_labels_that_are_no_classes(tmp_path, columns, labels, kind):
    write_parquet(tmp_path / "odd", {"picture": columns[1]["picture"], "label": labels}, range(8), "train")
    with pytest.raises(UserError, match=f"the column label holds {kind} values; labels are classes"):
        opened(f"hf:{tmp_path / 'odd'}")


@needs_datasets
def test_an_image_folder_and_a_saved_data_set(tmp_path, image_folder):
    import datasets

    store = opened(f"hf:{image_folder}")
    assert store.classes == ("ant", "bee") and len(store) == 12
    plain = open_dataset("imagefolder", "train", image_folder, None, progress=False)
    assert sorted(map(bytes, store.digests)) == sorted(map(bytes, plain.digests))
    assert len(opened(f"hf:{image_folder}", "test")) == 4

    datasets.load_dataset(str(image_folder)).save_to_disk(str(tmp_path / "saved"))
    saved = opened(f"hf:{tmp_path / 'saved'}")
    assert saved.labels.tolist() == store.labels.tolist() and np.array_equal(saved.digests, store.digests)


@needs_datasets
def test_images_without_labels_missing_and_damaged_ones(tmp_path, columns):
    import datasets

    _, content = columns
    broken = [*content["picture"][:5], {"bytes": b"no image", "path": "broken.png"}, None]
    part = {"picture": broken}
    write_parquet(tmp_path / "bare", part, range(7), "train", datasets.Features({"picture": datasets.Image()}))
    store = opened(f"hf:{tmp_path / 'bare'}")
    assert store.num_classes == 0 and len(store) == 5
    assert [name for name, _ in store.damaged] == ["train/0000005-broken.png", "train/0000006"]


@needs_datasets
def test_files_beside_the_data_set_may_be_missing(image_folder):
    """The library keeps only the paths of an image folder. What has changed is listed anew."""
    listing = list_images(f"hf:{image_folder}", "train", None, progress=False)
    (image_folder / "train/ant/1.png").unlink()
    (image_folder / "train/ant/2.png").write_bytes(b"")
    store = open_store(listing, None, None, False)
    assert len(store) == 10 and [reason for _, reason in store.damaged] == ["no such file", "empty file"]
    assert len(list_images(f"hf:{image_folder}", "train", None, progress=False).names) == 11


@needs_datasets
def test_a_training_split_without_the_label(tmp_path, columns):
    import datasets

    _, content = columns
    types = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    test = datasets.Dataset.from_dict({name: content[name] for name in types}, features=types)
    both = datasets.DatasetDict({"train": test.remove_columns("label"), "test": test})
    both.save_to_disk(str(tmp_path / "saved"))
    train, test = (list_images(f"hf:{tmp_path / 'saved'}", split, None, progress=False) for split in ("train", "test"))
    assert (train.classes, test.classes) == ((), ("cat", "dog")) and set(train.labels) == {-1}


@needs_datasets
def test_a_run_and_its_evaluation(parquet, tmp_path):
    from commands.train import train
    from eval.knn import KNN

    data = f"hf:{parquet}"
    config, method = small_run(
        None, tmp_path / "run", "barlow_twins", data=data, data_root=None, epochs=1, batch_size=4
    )
    run = train(config, method, {"knn": KNN.Config(ks=[2])})
    (result,) = (run / "results").glob("*.json")
    assert data in result.read_text()


@needs_datasets
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    def unreachable(*arguments, **options):
        raise ConnectionError("Couldn't reach the Hub\nfor two lines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    for name in ("nobody/nothing", str(tmp_path / "empty")):
        with pytest.raises(UserError, match="cannot be loaded from") as caught:
            opened(f"hf:{name}")
        assert "\n" not in str(caught.value)


def test_names_of_data_sets_with_a_colon():
    with pytest.raises(UsageError, match="give the name behind it, hf:NAME or hf:FOLDER"):
        DATASETS.get("hf")
    with pytest.raises(UsageError, match="unknown data set 'demo:x'"):
        DATASETS.get("demo:x")
    assert DATASETS.facts("hf:anything")["title"] == "Hugging Face"
    with pytest.raises(UsageError, match="names its own place; leave --data_root out"):
        open_dataset("hf:anything", "train", "/nowhere", None)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets, which is not installed; .* --extra hf"):
        opened("hf:anything")


@needs_datasets
def test_listing_takes_no_image_into_memory(tmp_path):
    """Images in parquet files may be more than the memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": bytes([i]) * 20_000, "path": f"{i}.png"} for i in range(200)]
    (tmp_path / "large").mkdir()
    table = pa.table({"image": rows, "label": [i % 2 for i in range(200)]})
    pq.write_table(table, tmp_path / "large" / "train-00000-of-00001.parquet", row_group_size=20)
    name = f"hf:{tmp_path / 'large'}"
    list_images(name, "train", None, progress=False)  # the library writes its own file
    whole = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(whole)
    try:
        pa.set_memory_pool(pool)
        names = list_images(name, "train", None, progress=False).names
    finally:
        pa.set_memory_pool(whole)
    assert names[199] == "train/0000199-199.png" and (pool.max_memory() or 0) < 1_000_000


@needs_datasets
def test_tar_shards(tmp_path, columns):
    """WebDataset's layout: the files of one image lie together and have one name."""
    images, _ = columns
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"train-{shard:05}.tar", "w") as archive:
            for i in range(4 * shard, 4 * shard + 4):
                for suffix, content in (("png", encoded(images[i], "PNG")), ("cls", b"%d" % (i % 3))):
                    member = tarfile.TarInfo(f"{i:06}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    store = opened(f"hf:{tmp_path / 'shards'},label=cls")
    assert store.classes == ("0", "1", "2") and store.labels.tolist() == [i % 3 for i in range(8)]
    assert all(np.array_equal(store.image(i), np.asarray(images[i])) for i in range(8))
    assert store.names[5] == "train/0000005-000005.png"
