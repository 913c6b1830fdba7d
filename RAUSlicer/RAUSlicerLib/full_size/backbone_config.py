"""Reads what a backbone's folder says of itself, so that it decides what the network is, and never which code computes it.

A configuration can make transformers fetch and run a compute kernel, or import a package, by naming it as an attention, as the kind of an
inner part, or as what its weights are packed by. So kinds are those that are known to need nothing but transformers, values are plain words
and numbers, and what chooses code is left to this library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..models.manifest import CONFIG, read_json

# Kinds whose code in transformers (5.24) asks for no other package and no kernel; each with its own inner parts, and what others have.
_KINDS = frozenset(
    "aya_vision cohere2_vision gemma3 glm4v idefics2 idefics3 internvl llava llava_next llava_onevision mistral3 mllama paligemma "
    "qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe smolvlm".split()
)
_PARTS = frozenset(
    "clip_vision_model siglip_vision_model siglip2_vision_model idefics3_vision smolvlm_vision pixtral internvl_vision "
    "cohere cohere2 gemma gemma2 gemma3_text llama ministral mistral phi3 qwen2 qwen3 smollm3".split()
)
# What chooses code by a word: the usual words are left out, as the best one is taken by itself, and no other can be meant well.
_IMPLEMENTATION = re.compile(r"implementation")
_USUAL = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm", "batched_mm")
# What transformers would look for code, files or devices by; the weights that lie in the folder need none of it.
_LEFT_OUT = frozenset(
    "auto_map custom_pipelines name_or_path _name_or_path _commit_hash transformers_weights fusion_config kernel_config use_kernels "
    "base_model_tp_plan base_model_pp_plan base_model_ep_plan tp_plan device_map per_layer_config task_specific_params".split()
)
_PACKED = ("quantization_config", "compression_config")
_WORD = re.compile(r"[\w.+ -]{0,80}")
_MORE_CODE = re.compile(r"timm|kernel|mistral_?common", re.IGNORECASE)
# Of how it answers, what is a matter of chance and length alone.
_ANSWERING = frozenset(
    "bos_token_id eos_token_id pad_token_id decoder_start_token_id do_sample temperature top_k top_p min_p typical_p repetition_penalty "
    "no_repeat_ngram_size length_penalty max_length max_new_tokens num_beams".split()
)
_ELSEWHERE = "Choose another backbone, for example Qwen2.5-VL or Qwen3-VL, in the form that its makers publish."


def read_config(folder: Path) -> Any:
    """The configuration as transformers takes it, without what chooses code.

    Raises:
        ModelError: it is of a kind that is not known to need nothing but transformers, or asks for other code in one way or another.
    """
    from transformers import CONFIG_MAPPING

    values = read_json(folder / CONFIG)
    kind = values.get("model_type")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"The folder {str(folder)!r} holds an adapter.",
            "It changes another model, which would have to be looked for by its name.",
            "Give the folder of the whole model.",
        )
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ModelError(
            f"The backbone {str(folder)!r} is of the kind {kind!r}, which can't be opened.",
            "This version of transformers does not know it, or it needs code of its own, which is never run.",
            "Choose another backbone, for example Qwen2.5-VL or Qwen3-VL, or update transformers.",
        )
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _check_classes(folder, name)
    config = CONFIG_MAPPING[kind].from_dict(_plain(folder, values, kind))
    config.name_or_path = str(folder)
    return config


def check_kind(folder: Path, kind: str) -> None:
    """Refuse a kind of backbone that is not known to need nothing but transformers.

    Raises:
        ModelError: it is none of those.
    """
    if kind not in _KINDS:
        raise ModelError(
            f"The backbone {str(folder)!r} is of the kind {kind!r}, of which nobody has looked what code it asks for.",
            f"Known to need nothing but transformers are {', '.join(sorted(_KINDS))}.",
            _ELSEWHERE,
        )


def answering(config: Any) -> Any:
    """How a backbone answers in words, without what chooses code."""
    from transformers import GenerationConfig

    return GenerationConfig(**{key: value for key, value in config.to_dict().items() if key in _ANSWERING and value is not None})


def _plain(folder: Path, values: dict[str, Any], kind: str, path: str = "") -> dict[str, Any]:
    """A configuration, or a part of one, without what chooses code."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}{key}"
        if key in _LEFT_OUT or (value is None and key in _PACKED):
            continue
        if key in _PACKED:
            method = value.get("quant_method") if isinstance(value, dict) else value
            raise ModelError(
                f"The weights of the backbone {str(folder)!r} are packed by {str(method)!r:.60}.",
                "To unpack them, packages or kernels beyond transformers would be run, which a model can't ask for.",
                "Get the model in bfloat16 or float16; RAUSlicer packs it into 4 bits by itself where that is needed.",
            )
        if _IMPLEMENTATION.search(key):
            for word in _words(value):
                if word not in _USUAL:
                    raise _asks_for_code(folder, where, word)
            continue
        if key == "model_type" and path and not _known_part(str(value), kind):
            raise _asks_for_code(folder, where, value)
        out[key] = _checked(folder, value, kind, where)
    return out


def _checked(folder: Path, value: Any, kind: str, where: str) -> Any:
    if isinstance(value, dict):
        return _plain(folder, value, kind, f"{where}.")
    if isinstance(value, list):
        return [_checked(folder, one, kind, where) for one in value]
    if isinstance(value, str) and (not _WORD.fullmatch(value) or _MORE_CODE.search(value)):
        raise _asks_for_code(folder, where, value)
    return value


def _known_part(part: str, kind: str) -> bool:
    family = kind.removesuffix("_moe")
    return part in _PARTS or part == kind or part.startswith(f"{family}_")


def _words(value: Any) -> Iterator[Any]:
    """The words of an implementation, which may be one for each part."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _words(one)
    elif value is not None:
        yield value


def _check_classes(folder: Path, name: str) -> None:
    """Refuse classes of other packages in a file of the processor's."""
    for key, value in _strings(read_json(folder / name)):
        if key.endswith(("_class", "_type", "backend")) and (not _WORD.fullmatch(value) or _MORE_CODE.search(value)):
            raise _asks_for_code(folder, f"{name}: {key}", value)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _strings(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one, key)
    elif isinstance(value, str):
        yield key, value


def _asks_for_code(folder: Path, key: str, value: object) -> ModelError:
    return ModelError(
        f"The configuration of the backbone {str(folder)!r} sets {key!r:.80} to {str(value)!r:.80}.",
        "That names code beyond transformers, such as a compute kernel or a package, which a model can't ask for.",
        _ELSEWHERE,
    )


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line of bearable length."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
