"""Check a model's weights before loading, since transformers initialises missing ones randomly and only logs it."""

import math
import re
from pathlib import Path

from justrl.errors import UserError
from justrl.models.downloads import check_download
from justrl.models.folder import Shapes, check_model_folder, tensor_shapes, weight_files
from justrl.models.sampling import model_config


def check_weights(model_dir: str | Path) -> None:
    """Raise UserError if safetensors files are broken, or lack, add or reshape tensors of the model's class.

    The files of a downloaded folder must also match their recorded hashes. A hub id passes. For quantized models, and
    for those whose class transformers doesn't know or stores under other names, only the files themselves are checked.

    The error names the folder, and the file or the tensors.
    """
    folder = Path(model_dir)
    if not folder.is_dir():
        return
    check_model_folder(folder)
    check_download(folder)
    config = model_config(folder, None)
    found: Shapes = {}
    for path in _files(folder):
        found |= tensor_shapes(path)
    try:
        model = None if getattr(config, "quantization_config", None) else _empty_model(config)
    except Exception as error:  # a model's class can raise anything
        raise UserError(f"the config.json of {folder} does not describe a loadable model: {error!r}") from error
    if model is not None and (problems := _differences(found, model)):
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{folder}: the weights do not match its config.json: {'; '.join(problems[:3])}{more}. "
            "Download the folder again"
        )


def largest_tensor(model_dir: str | Path) -> tuple[int, str]:
    """Number of parameters and name of the largest tensor in a folder's weight files."""
    return max(
        (math.prod(shape), name) for path in _files(Path(model_dir)) for name, shape in tensor_shapes(path).items()
    )


def _files(folder: Path) -> list[Path]:
    """The weight files that are loaded: the single one, or those of the index."""
    files = weight_files(folder)
    if missing := [path.name for path in files if not path.is_file()]:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        note = f"; {', '.join(pickled[:2])} is pickled, which is never loaded: convert it" if pickled else ""
        raise UserError(f"{folder} lacks {', '.join(missing[:3])}{note or ': download the folder again'}")
    return files


def _empty_model(config):
    """Build the model without memory for its weights; None if its tensors have different names in the files."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
    from transformers.conversion_mapping import get_model_conversion_mapping

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return None if get_model_conversion_mapping(model, add_legacy=False) else model


def _differences(found: Shapes, model) -> list[str]:
    """List missing, misshapen and extra tensors, one phrase each. Of tied tensors, one is enough."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = model.all_tied_weights_keys
    partner = tied | {source: name for name, source in tied.items()}
    absent = _keep(expected.keys() - found.keys(), model._keys_to_ignore_on_load_missing)
    problems = [f"{name} is missing" for name in absent if partner.get(name) not in found]
    problems += [
        f"{name} has the shape {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    # Older Llama files store a tensor that is computed today.
    known = {*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq"}
    return problems + [f"{name} is not one of its tensors" for name in _keep(found.keys() - expected.keys(), known)]


def _keep(names, ignored) -> list[str]:
    return sorted(name for name in names if not any(re.search(pattern, name) for pattern in ignored or ()))
