#!/usr/bin/env python3
"""Write `torch.save` checkpoints of TinyDiT without torch.

Standard library only. Knows the zip form of `torch.save` (pickle protocol 2, stored entries, 64-byte alignment), the
keys and shapes of TinyDiT layout v2, and the dicts of layout A (`model`, `ema_params`, `step`, `loss`, `config`) and of a
trainer, layout B (with an AdamW state). Knows nothing of what the weights mean: a model made by `full-size` or `noise-model` has learnt nothing.

The same arguments give the same bytes, on every machine and in every Python from 3.9 on: no clock, no host, no
identity of objects enters a file. Like torch's own, the bytes depend on the stem (the folder inside the zip), which
is the file's own name unless --stem says otherwise.
"""

import argparse
import array
import hashlib
import io
import math
import os
import pickle
import random
import statistics
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

ALIGNMENT = 64
TINY = {"image_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 13}
FULL = {"image_size": 128, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6, "num_classes": 13}
WEIGHT_STD = 0.02


class Refused(Exception):
    """What the user asked for cannot be done; the message is one line."""


class Tensor:
    """A contiguous float32 tensor; `load` gives its little-endian bytes, so that a large one is made when written."""

    def __init__(self, shape, load):
        self.shape = tuple(shape)
        self.numel = math.prod(self.shape)
        self.load = load

    def strides(self):
        return tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))


# --- reading ---------------------------------------------------------------------------------------------------------


class RestrictedUnpickler(pickle.Unpickler):
    """Builds the few things a checkpoint is made of; any other global is refused, so no file can run code."""

    ALLOWED = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "FloatStorage"): "FloatStorage",
    }

    def __init__(self, stream, read_storage):
        super().__init__(stream)
        self.read_storage = read_storage

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.rebuild_tensor
        if (module, name) not in self.ALLOWED:
            raise Refused(f"the pickle asks for `{module}.{name}`, which a layout A checkpoint in float32 does not hold")
        return self.ALLOWED[(module, name)]

    def persistent_load(self, pid):
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and pid[1] == "FloatStorage"):
            raise Refused(f"the pickle refers to {pid!r}, which is no float32 storage")
        return pid[2], pid[4]

    def rebuild_tensor(self, storage, offset, shape, strides, *_ignored):
        key, length = storage
        tensor = Tensor(shape, lambda: self.read_storage(key))
        if offset != 0 or tensor.numel != length or tuple(strides) != tensor.strides():
            raise Refused(f"storage `{key}` holds a view, and only whole contiguous tensors are read")
        if len(tensor.load()) != 4 * length:
            raise Refused(f"storage `{key}` is not {4 * length} bytes long")
        return tensor


def read_checkpoint(path):
    """The dict of a layout A checkpoint, its tensors as `Tensor`."""
    try:
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise Refused(f"`{path}` is a zip without one `<stem>/data.pkl`, so torch.save did not write it")
        folder = names[0][: -len("data.pkl")]
        saved = RestrictedUnpickler(
            io.BytesIO(archive.read(names[0])), lambda key: archive.read(f"{folder}data/{key}")
        ).load()
    except OSError as error:
        raise Refused(f"cannot read `{path}`: {error.strerror or error}") from None
    except zipfile.BadZipFile:
        raise Refused(f"`{path}` is no zip, so not a checkpoint in torch.save's present form") from None
    except (pickle.UnpicklingError, KeyError, EOFError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise Refused(f"`{path}` is damaged: {error}") from None
    if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict) or "config" not in saved:
        raise Refused(f"`{path}` is not of layout A: it has no `model` and `config`")
    return saved


# --- the pickle ------------------------------------------------------------------------------------------------------


class Pickler:
    """Protocol 2, opcode by opcode. Equal strings share one memo entry; identity never decides a byte."""

    def __init__(self):
        self.out = bytearray(b"\x80\x02")
        self.memo = {}
        self.memo_size = 0
        self.storages = []

    def dump(self, value):
        self.save(value)
        self.out += b"."
        return bytes(self.out)

    def save(self, value):
        if value is None:
            self.out += b"N"
        elif isinstance(value, bool):
            self.out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self.save_int(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self.save_shared(("string", value), lambda: self.push_string(value))
        elif isinstance(value, OrderedDict):
            self.save_ordered(value)
        elif isinstance(value, dict):
            self.out += b"}"
            self.remember()
            self.save_items(value)
        elif isinstance(value, list):
            self.out += b"]"
            self.remember()
            self.out += b"("
            for item in value:
                self.save(item)
            self.out += b"e"
        elif isinstance(value, Tensor):
            self.save_tensor(value)
        else:
            raise Refused(f"a checkpoint cannot hold a value of type `{type(value).__name__}`")

    def save_int(self, value):
        if 0 <= value < 1 << 8:
            self.out += b"K" + struct.pack("<B", value)
        elif 0 <= value < 1 << 16:
            self.out += b"M" + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + struct.pack("<B", len(digits)) + digits

    def push_string(self, value):
        text = value.encode("utf-8")
        self.out += b"X" + struct.pack("<I", len(text)) + text

    def push_global(self, module, name):
        self.save_shared(("global", module, name), lambda: self.out.extend(f"c{module}\n{name}\n".encode()))

    def save_shared(self, key, push):
        if key in self.memo:
            index = self.memo[key]
            self.out += b"h" + struct.pack("<B", index) if index < 256 else b"j" + struct.pack("<I", index)
            return
        push()
        self.memo[key] = self.remember()

    def remember(self):
        index = self.memo_size
        self.memo_size += 1
        self.out += b"q" + struct.pack("<B", index) if index < 256 else b"r" + struct.pack("<I", index)
        return index

    def save_ordered(self, value):
        self.push_global("collections", "OrderedDict")
        self.out += b")R"
        self.remember()
        self.save_items(value)
        if value.__dict__:  # a state dict's `_metadata`
            self.save(dict(value.__dict__))
            self.out += b"b"

    def save_items(self, value):
        items = list(value.items())
        for start in range(0, len(items), 1000):
            batch = items[start : start + 1000]
            self.out += b"(" if len(batch) > 1 else b""
            for key, item in batch:
                self.save(key)
                self.save(item)
            self.out += b"u" if len(batch) > 1 else b"s"

    def save_tuple(self, numbers):
        short = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(numbers))
        self.out += b"" if short else b"("
        for number in numbers:
            self.save_int(number)
        self.out += short or b"t"
        if numbers:
            self.remember()

    def save_tensor(self, tensor):
        self.push_global("torch._utils", "_rebuild_tensor_v2")
        self.out += b"(("
        self.save("storage")
        self.push_global("torch", "FloatStorage")
        self.save(str(len(self.storages)))
        self.save("cpu")
        self.save_int(tensor.numel)
        self.out += b"t"
        self.remember()
        self.out += b"Q"
        self.save_int(0)
        self.save_tuple(tensor.shape)
        self.save_tuple(tensor.strides())
        self.out += b"\x89"  # requires_grad
        self.push_global("collections", "OrderedDict")  # backward hooks: none
        self.out += b")R"
        self.remember()
        self.out += b"t"
        self.remember()
        self.out += b"R"
        self.remember()
        self.storages.append(tensor)


# --- the zip ---------------------------------------------------------------------------------------------------------


class TorchZip:
    """Stored entries with torch's own header fields: no clock, sizes in a data descriptor, padding in the `FB` extra."""

    def __init__(self, stream, stem):
        self.stream = stream
        self.stem = stem
        self.offset = 0
        self.directory = []

    def put(self, data):
        self.stream.write(data)
        self.offset += len(data)

    def add(self, name, data):
        path = f"{self.stem}/{name}".encode()
        header_at = self.offset
        padding = -(header_at + 30 + len(path) + 4) % ALIGNMENT
        self.put(struct.pack("<IHHHHHIIIHH", 0x04034B50, 0, 0x808, 0, 0, 0, 0, 0, 0, len(path), 4 + padding))
        self.put(path + b"FB" + struct.pack("<H", padding) + b"Z" * padding)
        self.put(data)
        crc = zlib.crc32(data)
        self.put(struct.pack("<IIII", 0x08074B50, crc, len(data), len(data)))
        self.directory.append((path, crc, len(data), header_at))
        if self.offset >= 1 << 32:
            raise Refused("a checkpoint above 4 GiB needs zip64 entries, which are not written here")

    def serialization_id(self):
        """40 digits that change with the entries' names or bytes; torch's own come from hashes that differ by build."""
        seen = b"".join(path.split(b"/", 1)[1] + struct.pack("<BI", 0, crc) for path, crc, _, _ in self.directory)
        return f"{int.from_bytes(hashlib.sha256(seen).digest(), 'big') % 10**40:040d}".encode()

    def finish(self):
        start = self.offset
        for path, crc, size, header_at in self.directory:
            fields = (0x02014B50, 0, 0, 0x808, 0, 0, 0, crc, size, size, len(path), 0, 0, 0, 0, 0, header_at)
            self.put(struct.pack("<IHHHHHHIIIHHHHHII", *fields) + path)
        size, count, end = self.offset - start, len(self.directory), self.offset
        self.put(struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 0x031E, 45, 0, 0, count, count, size, start))
        self.put(struct.pack("<IIQI", 0x07064B50, 0, end, 1))
        self.put(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, size, start, 0))


def write_checkpoint(path, saved, stem):
    """Writes beside `path` and renames, so that `path` is never half a checkpoint."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as stream:
            write_entries(TorchZip(stream, stem or path.stem), saved)
        os.replace(partial, path)
    except OSError as error:
        raise Refused(f"cannot write `{path}`: {error.strerror or error}") from None
    finally:
        if partial.is_file():
            partial.unlink()


def write_entries(archive, saved):
    pickler = Pickler()
    archive.add("data.pkl", pickler.dump(saved))
    archive.add(".format_version", b"1")
    archive.add(".storage_alignment", str(ALIGNMENT).encode())
    archive.add("byteorder", b"little")
    for key, tensor in enumerate(pickler.storages):
        data = tensor.load()
        if len(data) != 4 * tensor.numel:
            raise Refused(f"tensor {key} has {len(data)} bytes where its shape {tensor.shape} asks for {4 * tensor.numel}")
        archive.add(f"data/{key}", data)
    archive.add("version", b"3\n")
    archive.add(".data/serialization_id", archive.serialization_id())
    archive.finish()


# --- the network -----------------------------------------------------------------------------------------------------


def tinydit_v2(config):
    """Every key of layout v2 with its shape, in the order of torch's state dict."""
    width, patch, channels = config["embed_dim"], config["patch_size"], 3
    tokens = (config["image_size"] // patch) ** 2
    shapes = OrderedDict()

    def affine(name, outputs, inputs):
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    def norm(name):
        shapes[f"{name}.weight"] = (width,)
        shapes[f"{name}.bias"] = (width,)

    shapes["pos_embed"] = (1, tokens, width)
    shapes["patch_embed.proj.weight"] = (width, channels, patch, patch)
    shapes["patch_embed.proj.bias"] = (width,)
    shapes["breed_embedder.embedding.weight"] = (config["num_classes"] + 1, width)
    affine("t_embedder.mlp.0", width, 256)
    affine("t_embedder.mlp.2", width, width)
    for block in (f"blocks.{index}" for index in range(config["depth"])):
        norm(f"{block}.norm1")
        shapes[f"{block}.attn.qkv.weight"] = (3 * width, width)
        affine(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2")
        affine(f"{block}.mlp.fc1", 4 * width, width)
        affine(f"{block}.mlp.fc2", width, 4 * width)
        affine(f"{block}.adaLN_modulation.1", 6 * width, width)
    norm("final_layer.norm_final")
    affine("final_layer.linear", patch * patch * channels, width)
    affine("final_layer.adaLN_modulation.1", 2 * width, width)
    return shapes


def float_bytes(values):
    values = array.array("f", values)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def normal_table():
    """The upper halves of 65,536 float32 values, the quantiles of N(0, WEIGHT_STD)."""
    quantile = statistics.NormalDist(0.0, WEIGHT_STD).inv_cdf
    values = (quantile((index + 0.5) / 65536) for index in range(65536))
    return [struct.unpack("<I", struct.pack("<f", value))[0] >> 16 for value in values]


class RandomWeights:
    """Weights near N(0, WEIGHT_STD), in bulk: the upper half of each float by table, the lower half random bits.

    EMA weights have the raw weights' upper halves and lower halves of their own: below 1 % apart, and never equal.
    """

    def __init__(self, seed):
        self.seed = seed
        self.table = normal_table()

    def tensor(self, name, shape, average=False):
        if name.endswith((".norm1.weight", ".norm2.weight", ".norm_final.weight")):
            return Tensor(shape, lambda: self.around_one(name, shape, average))
        return Tensor(shape, lambda: self.normal(name, math.prod(shape), average))

    def normal(self, name, count, average):
        picks = array.array("H", random.Random(f"{self.seed}/{name}/upper").randbytes(2 * count))
        if sys.byteorder == "big":
            picks.byteswap()
        upper = array.array("H", map(self.table.__getitem__, picks))
        if sys.byteorder == "big":
            upper.byteswap()
        upper = upper.tobytes()
        lower = random.Random(f"{self.seed}/{name}/{'ema' if average else 'raw'}").randbytes(2 * count)
        data = bytearray(4 * count)
        data[0::4], data[1::4] = lower[0::2], lower[1::2]
        data[2::4], data[3::4] = upper[0::2], upper[1::2]
        return bytes(data)

    def around_one(self, name, shape, average):
        noise = array.array("f", self.normal(name, math.prod(shape), average))
        if sys.byteorder == "big":
            noise.byteswap()
        return float_bytes(1.0 + value for value in noise)


def with_metadata(tensors):
    """A state dict as `Module.state_dict()` gives it, with the `_metadata` of its modules."""
    state = OrderedDict(tensors)
    modules = OrderedDict({"": {"version": 1}})
    for key in state:
        parts = key.split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:depth]), {"version": 1})
    state._metadata = modules
    return state


def layout_a(model, ema, step, loss, config):
    return {"model": with_metadata(model), "ema_params": ema, "step": step, "loss": loss, "config": dict(config)}


def random_model(config, seed, with_ema, step, loss):
    shapes, weights = tinydit_v2(config), RandomWeights(seed)
    model = {name: weights.tensor(name, shape) for name, shape in shapes.items()}
    ema = {name: weights.tensor(name, shape, average=True) for name, shape in shapes.items()} if with_ema else None
    return layout_a(model, ema, step, loss, config)


def trainer(options):
    """Layout B: the moments of AdamW are as large as the weights, so the file is four times the weights."""
    shapes, weights = tinydit_v2(FULL), RandomWeights(options.seed)
    moments = {word: RandomWeights(f"{options.seed}/{word}") for word in ("exp_avg", "exp_avg_sq")}
    state = {}
    for index, (name, shape) in enumerate(shapes.items()):
        state[index] = {"step": Tensor((), lambda: float_bytes([200_000.0]))}
        for word, source in moments.items():
            state[index][word] = Tensor(shape, lambda n=name, s=shape, w=source: w.normal(n, math.prod(s), False))
    group = {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "params": list(range(len(shapes)))}
    return {
        "step": 200_000,
        "model_state_dict": with_metadata({name: weights.tensor(name, shape) for name, shape in shapes.items()}),
        "optimizer_state_dict": {"state": state, "param_groups": [group]},
        "ema_shadow_params": {name: weights.tensor(name, shape, average=True) for name, shape in shapes.items()},
        "ema_step": 200_000,
        "loss": 0.0625,
        "timestamp": "2025-09-01T00:00:00",
        "config": dict(FULL),
    }


# --- the subcommands -------------------------------------------------------------------------------------------------


def perturbed(tensor, name, seed, scale):
    """Every value times 1 + scale * noise, noise uniform with variance 1; the same noise for a weight and its EMA."""
    values = array.array("f", tensor.load())
    if sys.byteorder == "big":
        values.byteswap()
    draw = random.Random(f"{seed}/{name}/perturb").random
    width = 2.0 * math.sqrt(3.0) * scale
    return Tensor(tensor.shape, lambda data=float_bytes(v * (1.0 + width * (draw() - 0.5)) for v in values): data)


def perturb(options):
    saved = read_checkpoint(options.input)
    if not isinstance(saved.get("step"), int):
        raise Refused(f"`{options.input}` has no `step` to increase")
    for part in ("model", "ema_params"):
        for name, tensor in (saved.get(part) or {}).items():
            changed = perturbed(tensor, name, options.seed, options.scale)
            if options.scale and any(tensor.load()) and changed.load() == tensor.load():
                raise Refused(f"a scale of {options.scale} changes nothing in `{part}.{name}`")
            saved[part][name] = changed
    saved["step"] += options.steps
    return saved


def resave(options):
    return read_checkpoint(options.input)


def full_size(options):
    return random_model(FULL, options.seed, not options.no_ema, 200_000, 0.0625)


def noise_model(options):
    return random_model(TINY, options.seed, True, 5_000, 0.125)


def placeholder(options):
    """What a model is before its first step: the modulations and the last layer are zero, there is no EMA."""
    saved = random_model(TINY, options.seed, False, 0, None)
    for name, tensor in saved["model"].items():
        if "adaLN_modulation" in name or name.startswith("final_layer.linear") or name.endswith(".bias"):
            saved["model"][name] = Tensor(tensor.shape, lambda size=4 * tensor.numel: bytes(size))
    return saved


def unsigned(text):
    digits = text[1:] if text.startswith("+") else text
    if not (digits.isascii() and digits.isdigit()):
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number of 0 or more")
    return int(digits)


def finite(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"`{text}` is not a finite number")
    return value


def stem_name(text):
    if not text or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"`{text}` cannot be the name of a folder inside the zip")
    return text


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message} (try `{self.prog} --help`)\n")


def parser():
    top = OneLineParser(description=__doc__.split("\n\n")[0], epilog="same arguments, same bytes")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, make, text, reads=False):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(make=make)
        if reads:
            sub.add_argument("input", metavar="IN", help="a layout A checkpoint in torch.save's zip form")
        sub.add_argument("output", metavar="OUT", help="the checkpoint to write, atomically")
        sub.add_argument("--stem", type=stem_name, metavar="NAME", help="the folder inside the zip (default: OUT's name without suffix)")
        return sub

    def seeded(sub):
        sub.add_argument("--seed", type=unsigned, default=0, metavar="N", help="seed of the random numbers (default 0)")

    sub = command("perturb", perturb, "change every weight and its EMA a little: a retraining, as a story", reads=True)
    seeded(sub)
    sub.add_argument("--scale", type=finite, default=1e-3, metavar="X", help="relative size of the change (default 1e-3)")
    sub.add_argument("--steps", type=unsigned, default=1000, metavar="K", help="steps to add to `step` (default 1000)")
    command("resave", resave, "write the same tensors and scalars as other bytes", reads=True)
    sub = command("full-size", full_size, "33,088,128 random weights: layout A of the published size, step 200000")
    seeded(sub)
    sub.add_argument("--no-ema", action="store_true", help="`ema_params` None: half the bytes")
    seeded(command("trainer", trainer, "the same weights as a trainer saves them: EMA, AdamW state, layout B, 529 MB"))
    seeded(command("noise-model", noise_model, "a small model that claims training and draws noise: gates must refuse it"))
    seeded(command("placeholder", placeholder, "a small untrained model, step 0, last layer zero: gates must refuse it"))
    return top


def main():
    options = parser().parse_args()
    try:
        saved = options.make(options)
        write_checkpoint(options.output, saved, options.stem)
    except Refused as error:
        sys.exit(f"error: {error}")
    model = saved.get("model") or saved["model_state_dict"]
    tensors = len(model)
    parameters = sum(tensor.numel for tensor in model.values())
    size = os.path.getsize(options.output)
    print(f"wrote {options.output}: {size:,} bytes, {tensors} tensors, {parameters:,} parameters, step {saved['step']}")


if __name__ == "__main__":
    main()
