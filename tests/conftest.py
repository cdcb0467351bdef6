"""What the tests of several folders share: a tiny encoder and a chat server, both real."""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads cost more than they give

WORDS = (
    "the a of to in is and what which how many does when after before it can not gateway voltage "
    "sensor relay valve pump fuse reset alarm firmware update port cable battery display log user "
    "password backup restore power supply volts amps seconds minutes hours days twelve twenty "
    "thirty forty red green blue light opens closes starts stops every holds needs takes lasts"
)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random two-layer BERT of 32 dimensions with a WordPiece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += dict.fromkeys([*letters, *(f"##{c}" for c in letters), *WORDS.split()])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reranker(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random cross-encoder with the words of `tiny_encoder`."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(1)
    config = BertConfig.from_pretrained(tiny_encoder, num_labels=1, initializer_range=0.3)
    folder = tmp_path_factory.mktemp("models") / "tiny-reranker"
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random two-layer Llama whose tokens are bytes and the words above."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS, WORDS.replace(" ", "  ")], trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-decoder"
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentence_transformers() -> ModuleType:
    """The reference; importing it takes seconds."""
    return pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="session")
def encoder_decoder(tiny_encoder: Path) -> Callable[[str], Any]:
    """Make a random encoder-decoder for the words of `tiny_encoder`, in evaluation mode.

    Kinds: t5, flan-t5, mt5, umt5, longt5, bart, bert (EncoderDecoderModel).
    """
    import torch
    import transformers as hf

    words = hf.AutoConfig.from_pretrained(tiny_encoder).vocab_size
    ids = {"vocab_size": words, "pad_token_id": 0, "eos_token_id": 3}
    t5 = {**ids, "decoder_start_token_id": 0, "d_model": 32, "d_kv": 8, "d_ff": 64,
          "num_layers": 2, "num_heads": 4, "initializer_factor": 2.0}  # fmt: skip
    bart = {**ids, "bos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
            "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
            "max_position_embeddings": 128, "init_std": 0.3}  # fmt: skip
    bert = {"vocab_size": words, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
            "num_attention_heads": 4, "max_position_embeddings": 128,
            "initializer_range": 0.5}  # fmt: skip

    def make(kind: str) -> Any:
        torch.manual_seed(0)
        if kind == "bert":
            decoder = hf.BertConfig(**bert, is_decoder=True, add_cross_attention=True)
            config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(
                hf.BertConfig(**bert), decoder, pad_token_id=0
            )
            return hf.EncoderDecoderModel(config).eval()
        if kind == "bart":
            return hf.BartForConditionalGeneration(hf.BartConfig(**bart)).eval()
        gated = {"feed_forward_proj": "gated-gelu", "initializer_factor": 1.5}
        name = {"flan-t5": "T5", "longt5": "LongT5"}.get(kind, kind.upper())
        changes = gated if kind in ("flan-t5", "mt5") else {}
        config = getattr(hf, f"{name}Config")(**{**t5, **changes})
        return getattr(hf, f"{name}ForConditionalGeneration")(config).eval()

    return make


@pytest.fixture
def as_first_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """What makes this process the first of a launch: of how many, and how many on this machine."""

    def launched(size: int, here: int) -> None:
        launch = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": here, "RANK": 0, "LOCAL_RANK": 0}
        for name, value in {**launch, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
            monkeypatch.setenv(name, str(value))

    return launched


@pytest.fixture
def stage() -> Callable[..., Path]:
    """Run one command with a configuration, as the command line does; return its run directory."""
    from ragkit.config.load import Source, build
    from ragkit.stages import STAGES
    from ragkit.stages.pipeline import run_stage

    def run(command: str, restart: bool = False, **values: Any) -> Path:
        module = STAGES[command].load()
        config = build(module.Config, Source(values))
        return run_stage(command, module, config, ["ragkit", command], restart)

    return run


@dataclass
class Outcome:
    """What a command gave back: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def ragkit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run the command line in this process."""
    from ragkit import cli

    def run(*arguments: str) -> Outcome:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("TQDM_DISABLE", "1")
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["ragkit", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What ragkit logs during the test, a message each."""
    from ragkit.log import logger

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _log_left_as_it_was() -> Iterator[None]:
    """Undo what a test did to ragkit's logger, so that none writes to the stderr of another."""
    logger = logging.getLogger("ragkit")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture(scope="session")
def word_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with no more than a tokenizer: words and punctuation in [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    folder = tmp_path_factory.mktemp("models") / "word-model"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    return folder


@dataclass
class Response:
    """What the chat server sends back; the usage is always of 7 and 3 tokens.

    status: 0 closes the connection without an answer
    piece: bytes of the body that are sent at a time; 0: all at once
    """

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    piece: int = 0

    @classmethod
    def says(cls, text: str | None) -> "Response":
        """Return a chat completion."""
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
        choice["message"] |= {"content": text}  # type: ignore[operator]
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
        return cls(body=json.dumps({**body, "choices": [choice], "usage": usage}))


class ChatServer(ThreadingHTTPServer):
    """An OpenAI-compatible server on loopback; `reply` says what it answers to a request."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.recording = threading.Lock()  # a request and its key are recorded together
        self.closing = threading.Event()
        self.reply: Callable[[dict[str, Any]], Response] = lambda _: Response.says("fine")
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.recording:
            self.server.requests.append(request)
            self.server.keys.append(self.headers["Authorization"])
        response = self.server.reply(request)
        if not response.status:
            return
        with suppress(ConnectionError):  # the client has given up
            self.send_response(response.status)
            for name, value in {"Content-Type": response.kind, **response.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            body = response.body.encode()
            for start in range(0, len(body), response.piece or len(body) or 1):
                self.wfile.write(body[start : start + (response.piece or len(body))])
                self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def says() -> Callable[[str | None], Response]:
    """Make the response that says a text."""
    return Response.says


@pytest.fixture
def response() -> type[Response]:
    """The response of a chat server, to be made by hand."""
    return Response


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A running chat server; requests that still wait for `closing` go on when the test ends."""
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()
