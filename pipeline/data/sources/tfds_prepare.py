"""Finding prepared TensorFlow Datasets, or downloading and preparing them."""
import glob
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from typing import Any

from pipeline.activity import activity
from pipeline.choices import DATASETS
from pipeline.console import STANDARD, Console
from pipeline.errors import UsageError, nearest
from pipeline.paths import local_path

_CONNECT_SECONDS = 5
_NAME = re.compile(r"(?P<name>\w+)(?:/(?P<config>[\w.-]+))?(?::(?P<version>\d+\.\d+\.\d+))?")


def default_data_dir() -> str:
    """Returns the default folder of TensorFlow Datasets: $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UsageError: the user has no home directory.
    """
    given = os.environ.get("TFDS_DATA_DIR")
    found = local_path(given, "TFDS_DATA_DIR") if given else os.path.expanduser("~/tensorflow_datasets")
    if found.startswith("~"):
        raise UsageError("there is no home directory to keep data sets in (HOME is not set): give --data_dir")
    return found


def prepared(data_dir: str) -> dict[str, dict[str, str]]:
    """Returns the data sets in a folder: {"name" or "name/config": {version: its folder}}, by their files alone."""
    found: dict[str, dict[str, str]] = {}
    for pattern in ("*/*/features.json", "*/*/*/features.json"):
        for path in glob.glob(os.path.join(glob.escape(data_dir), pattern)):
            folder, version = os.path.split(os.path.dirname(path))
            if re.fullmatch(r"\d+\.\d+\.\d+", version):
                found.setdefault(os.path.relpath(folder, data_dir), {})[version] = os.path.dirname(path)
    return dict(sorted(found.items()))


def find_or_prepare(dataset: str, data_dir: str | None = None, console: Console = STANDARD) -> Any:
    """Returns the TFDS builder of a data set, after downloading and preparing it if needed.

    Args:
      dataset: name, name/config or name:version.
      data_dir: the folder; None: default_data_dir().
      console: where messages go.

    Raises:
      UsageError: an unknown name; or neither data nor network.
    """
    match = _NAME.fullmatch(dataset)
    if not match:
        raise UsageError(f"unknown data set '{dataset}': {_folder_meant(dataset)}known: {', '.join(DATASETS.shown())} "
                         f"and the names of TensorFlow Datasets such as mnist, imagenette/160px or mnist:3.0.1")
    data_dir = os.path.abspath(data_dir or default_data_dir())
    folder = _find(prepared(data_dir), **match.groupdict())
    import tensorflow_datasets as tfds  # Imported here: it takes a second.
    if folder is None:
        _check_name(match["name"], prepared(data_dir), tfds, _folder_meant(dataset))
        return _prepare(dataset, data_dir, console, tfds)
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:
        raise UsageError(f"cannot read the data set in {folder}: {_first_line(error)}; prepare it again") from error


def _find(found, name, config, version):
    """Returns the folder of the newest matching version, or None."""
    fitting = {key: versions for key, versions in found.items()
               if key.split("/")[0] == name and (config is None or key == f"{name}/{config}")}
    if len(fitting) > 1 and name in fitting:
        fitting = {name: fitting[name]}
    if len(fitting) > 1:
        raise UsageError(f"--dataset={name} is prepared in {len(fitting)} forms: say which one, "
                         f"{' or '.join('--dataset=' + key for key in fitting)}")
    versions = next(iter(fitting.values()), {})
    versions = {v: folder for v, folder in versions.items() if version in (None, v)}
    return versions[max(versions, key=lambda v: tuple(map(int, v.split("."))))] if versions else None


def _folder_meant(dataset):
    """Returns the hint for a name that seems to mean a folder of the user's images, "" for others."""
    kind, _, rest = re.fullmatch(r"(\w*)([:/=]?)(.*)", dataset, re.DOTALL).groups()
    if rest and kind.lower() in ("folder", "imagefolder", "dir", "directory", "path", "images", "file"):
        return f"a folder of your own images is --dataset=folder:{rest}; "
    if os.path.isdir(os.path.expanduser(dataset)):
        return f"it is a folder: give --dataset=folder:{dataset}; "
    return ""


def _check_name(name, found, tfds, meant=""):
    known = set(tfds.list_builders(with_community_datasets=False)) | {key.split("/")[0] for key in found}
    if name in known:
        return
    guess = nearest(name, known | set(DATASETS))
    suggestion = meant or (f"did you mean '{guess}'? " if guess else "")
    raise UsageError(f"unknown data set '{name}': {suggestion}known: {', '.join(DATASETS.shown())} and the "
                     f"{len(known)} names of TensorFlow Datasets (https://www.tensorflow.org/datasets/catalog)")


def _prepare(dataset, data_dir, console, tfds):
    """Downloads and prepares a data set of a known name."""
    name = dataset.split("/")[0].split(":")[0]
    refusal = _refusal(dataset, data_dir)
    try:
        builder = tfds.builder(dataset, data_dir=data_dir, file_format="tfrecord")  # Some are ArrayRecord otherwise.
    except Exception as error:
        raise UsageError(f"--dataset={dataset}: {_first_line(error)}") from error
    if not _writable(data_dir):
        raise UsageError(f"{refusal}, and the folder cannot be written: give --data_dir a folder that has it, or one "
                         f"that can be written")
    blocked = _blocked_host(list(builder.url_infos or {}))
    if blocked:
        raise UsageError(f"{refusal}, and {blocked} cannot be reached to download it: connect this machine to the "
                         f"network, or prepare '{dataset}' on another one and give its folder by --data_dir")
    console.info(f"downloading and preparing {dataset} into {data_dir}")
    if not console.live:
        tfds.disable_progress_bar()  # It is drawn, for a terminal.
    # A folder of downloads for each data set: files are cached there by name, and mnist's have fashion_mnist's names.
    downloads = os.path.join(data_dir, "downloads", name)
    try:
        with activity(f"downloading and preparing {dataset}", console, live=False):
            builder.download_and_prepare(download_dir=downloads, download_config=tfds.download.DownloadConfig(
                try_download_gcs=False))
    except Exception as error:
        raise UsageError(f"{refusal}, and to download and prepare it failed: {_first_line(error)}") from error
    return builder


def _refusal(dataset, data_dir):
    """Returns the beginning of a message about a missing data set: what the folder has instead."""
    found = list(prepared(data_dir))
    has = f"which has {', '.join(found[:12])}" if found else (
        "which has no prepared data set" if os.path.isdir(data_dir) else "which does not exist")
    return f"--dataset={dataset} is not in {data_dir} ({has})"


def _writable(data_dir):
    while not os.path.exists(data_dir):
        data_dir = os.path.dirname(data_dir)
    return os.path.isdir(data_dir) and os.access(data_dir, os.W_OK | os.X_OK)


def _blocked_host(urls):
    """Returns the host of the downloads, or the proxy, if it does not answer; else None.

    The downloader itself retries for minutes.
    """
    parsed = [urllib.parse.urlparse(url) for url in urls]
    parsed = next((url for url in parsed if url.hostname), None)
    if parsed is None:
        return None
    proxy = None if urllib.request.proxy_bypass(parsed.hostname) else urllib.request.getproxies().get(parsed.scheme)
    target = urllib.parse.urlparse(proxy if proxy is None or "//" in proxy else f"//{proxy}") if proxy else parsed
    port = target.port or {"https": 443, "ftp": 21}.get(target.scheme, 80)
    reached = threading.Event()

    def connect():
        try:
            socket.create_connection((target.hostname, port), _CONNECT_SECONDS).close()
            reached.set()
        except OSError:
            pass

    # On a thread, since a name lookup has no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    return None if reached.is_set() else f"{'the proxy ' if proxy else ''}{target.hostname}"


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
