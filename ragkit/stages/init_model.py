"""`ragkit init-model`: a corpus into a generator that has still to be trained."""

import shutil
from dataclasses import asdict
from pathlib import Path

from pydantic import Field
from rich.console import RenderableType

from ragkit.config.blocks import DocumentSource
from ragkit.config.initial import Architecture, Causal, EncoderDecoder
from ragkit.data.files import read_json, write_json
from ragkit.log import logger
from ragkit.models.initial import fit, make_initial
from ragkit.runs import Run
from ragkit.stages.chunk import cut, read_source


class Config(DocumentSource):
    """Configuration of `init-model`."""

    architecture: Architecture = Field(
        Causal(type="causal"), description="small and of random weights, or an encoder's"
    )


def run(config: Config, run: Run) -> None:
    """Make model and tokenizer; write model/ and initial.json."""
    wanted = config.architecture
    texts = [passage.rendered for passage in cut(read_source(config, run), None)]
    with run.timed("making"):
        model, tokenizer = make_initial(wanted, texts, config.seed)
    if not isinstance(wanted, EncoderDecoder) and len(tokenizer) < wanted.vocabulary:
        logger.warning(
            "the vocabulary has %d tokens, not %d: the corpus repeats too little for more",
            len(tokenizer), wanted.vocabulary,
        )  # fmt: skip
    write_json(
        run / "initial.json",
        {
            "type": wanted.type,
            "encoder": wanted.encoder if isinstance(wanted, EncoderDecoder) else None,
            "parameters": model.num_parameters(),
            "vocabulary": len(tokenizer),
            "max_length": tokenizer.model_max_length,
            "corpus": {"texts": len(texts), **asdict(fit(tokenizer, texts))},
        },
    )
    temporary = run / ".model"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(run / "model", ignore_errors=True)
    temporary.rename(run / "model")


def show(path: Path) -> RenderableType:
    """Say what the model is, how it takes the corpus, and that it is not trained."""
    made = read_json(path / "initial.json")
    corpus, encoder = made["corpus"], made["encoder"]
    kind = {
        "causal": "a Llama of random weights",
        "t5": "a T5 of random weights",
        "encoder-decoder": f"{encoder} with a decoder made of its layers",
    }[made["type"]]
    known = "Its decoder has never written a word" if encoder else "It knows nothing at all"
    rate = "" if encoder else " --set loop.learning_rate=1e-3"
    unknown = f", {corpus['unknown']:,} of them unknown" if corpus["unknown"] else ""
    return (
        f"{kind}: {made['parameters']:,} parameters, a vocabulary of {made['vocabulary']:,}, texts "
        f"of up to {made['max_length']:,} tokens\n"
        f"the corpus: {corpus['words']:,} words, {corpus['tokens']:,} tokens "
        f"({corpus['tokens'] / corpus['words']:.2f} a word){unknown}\n"
        f"{known}: train it with `ragkit train-generator EXAMPLES --method sft -m {path}{rate}`\n"
        f"the model is in {path / 'model'}"
    )
