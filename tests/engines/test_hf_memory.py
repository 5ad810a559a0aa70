"""What rows share: the tree of prefixes, trunks in attention, and weights laid out anew, each held against doing without."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from exptilt.engines.distribution_torch import Laws, draw, log_probability  # noqa: E402
from exptilt.engines.hf import Weights  # noqa: E402
from exptilt.engines.hf.banks import Bank, Kind, Layout  # noqa: E402
from exptilt.engines.hf.decode import Decoder  # noqa: E402
from exptilt.engines.hf.fast.linear import PackedLinear, pack, round_up  # noqa: E402
from exptilt.engines.hf.fast.trunks import Trunks  # noqa: E402
from exptilt.engines.hf.loading import read_weights  # noqa: E402
from exptilt.engines.hf.prefixes import KeyValues, Prefixes, common_beginning, shared_beginnings  # noqa: E402
from exptilt.engines.hf.slots import Slots  # noqa: E402
from exptilt.engines.language import LanguageEngine  # noqa: E402
from exptilt.engines.sampling import Sampling  # noqa: E402
from exptilt.errors import ModelError  # noqa: E402
from exptilt.keys import Key  # noqa: E402
from exptilt.usage import Work  # noqa: E402

SHARED = {
    "vocab_size": 260,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
MODELS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SHARED, intermediate_size=64, num_key_value_heads=2),
    "qwen2": lambda: transformers.Qwen2Config(**SHARED, intermediate_size=64, num_key_value_heads=1),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=256),
    "opt": lambda: transformers.OPTConfig(**SHARED, ffn_dim=64, word_embed_proj_dim=32),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHARED, intermediate_size=64, num_key_value_heads=2, head_dim=8, sliding_window=8
    ),
    "mistral": lambda: transformers.MistralConfig(**SHARED, intermediate_size=64, num_key_value_heads=2, sliding_window=8),
}
WINDOWED = {"gemma3", "mistral"}  # whose rows keep their beginnings to themselves
PROMPTS = ["a prompt with a beginning that is long enough for a trunk", "a prompt with a beginning that differs", "short"]


def slots_of(engine: LanguageEngine[Weights]) -> Slots:
    decoder = engine.backend.decoder
    assert isinstance(decoder, Decoder)
    return decoder.slots


def keys(count: int, seed: int = 0) -> list[Key]:
    return [Key(seed, i) for i in range(count)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", ["alike", "rooted", "parted"])
def test_rows_that_share_trunks_draw_from_the_models_own_law(
    name: str, way: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Families of several sizes, of which some have trunks; every logq is that of the whole text read at once."""
    if way != "alike":  # a root for what prompts share
        monkeypatch.setattr("exptilt.engines.hf.fast.trunks.LEAST_ROOT", 8)
    if way == "parted":  # wherever rows or trunks differ
        monkeypatch.setattr("exptilt.engines.hf.slots.EXTRA_OWN", 0)
        monkeypatch.setattr("exptilt.engines.hf.fast.trunks.EXTRA_TRUNK", 0)
    seen, shared = [], Trunks.shared
    monkeypatch.setattr(Trunks, "shared", lambda *args, **given: seen.append(shared(*args, **given)) or seen[-1])
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[name]()).eval()
    plain = transformers.AutoModelForCausalLM.from_config(MODELS[name]()).eval()
    plain.load_state_dict(model.state_dict())
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    engine = LanguageEngine(Weights(model, tokenizer, name=name), Sampling(max_tokens=24))
    assert engine.backend.network.shares == (name not in WINDOWED)
    stems = [engine.start(PROMPTS[place]) for place in (0, 0, 0, 1, 2, 1, 0, 2)]
    grown = engine.extend(stems, keys(8), tokens=9)
    twice = [draft for draft in grown for _ in range(3)]
    drafts = engine.extend(twice, keys(len(twice), seed=1))
    for draft in drafts:
        prompt = engine.prompt_tokens(draft.prompt)
        with torch.inference_mode():
            logits = plain(input_ids=torch.tensor([[*prompt, *draft.tokens]]), use_cache=False).logits[0].double()
        own = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(draft.tokens)[:, None])[:, 0]
        assert draft.logq is not None
        np.testing.assert_allclose(draft.logq, own.numpy(), atol=2e-5)
    if name not in WINDOWED:
        assert (max(len(each.own) for each in seen) > 1) == (way == "parted")
        assert (max(len(each.trunks) for each in seen) > 1) == (way == "parted")
        assert max(len(each.tiers or each.levels) for each in seen) == (1 if way == "alike" else 2)
        assert all(each.tiers is not None for each in seen) == (way != "parted")


def test_a_rollout_step_holds_its_beginning_once(model_folder: Path):
    """The rows of several candidates stand on one trunk, their own columns begin after it, and it goes with the last of them."""
    engine = LanguageEngine(read_weights(model_folder, name="small"), Sampling(max_tokens=40))
    slots, seen = slots_of(engine), []
    trunks = slots.trunks
    assert trunks is not None
    step = engine.backend.decoder.step

    def watched() -> Any:
        seen.append((slots.rows, [trunk.tokens for trunk in trunks.held if trunk], slots.end - slots.begin))
        return step()

    engine.backend.decoder.step = watched
    candidates = engine.extend([engine.start(PROMPTS[0])] * 4, keys(4), tokens=6)
    seen.clear()
    engine.extend([draft for draft in candidates if draft.finish is None for _ in range(3)], keys(12), tokens=5)
    prompt = engine.prompt_tokens(PROMPTS[0])
    rows, held, width = seen[0]
    assert rows == len({draft.tokens for draft in candidates if draft.finish is None}), (
        "rollouts of a candidate begin as one branch"
    )
    assert [prompt[: len(tokens)] for tokens in held] == held
    assert len(held[0]) >= len(prompt) - 1
    assert width <= 7
    engine.backend.decoder.settle()
    assert not any(trunks.held)


def test_rows_wait_for_memory_and_come_out_the_same(model_folder: Path):
    wide = LanguageEngine(read_weights(model_folder, name="wide"), Sampling(max_tokens=24))
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, key heads, size, bytes
    narrow = LanguageEngine(read_weights(model_folder, name="narrow", rows_memory=3 * token * 120), wide.sampling)
    most = []
    step = narrow.backend.decoder.step
    narrow.backend.decoder.step = lambda: (most.append(len(narrow.backend.decoder.rows)), step())[1]
    starts = [wide.start(PROMPTS[i % 3]) for i in range(12)]
    together, few = wide.extend(starts, keys(12)), narrow.extend(starts, keys(12))
    assert [draft.tokens for draft in together] == [draft.tokens for draft in few]
    assert 1 <= max(most) < 12


def test_a_beginning_that_prompts_share_is_prefilled_once(model_folder: Path):
    engine = LanguageEngine(read_weights(model_folder, name="small"), Sampling(max_tokens=4))
    examples = "one example after the other, many of them, before every question: "
    starts = [engine.start(examples + question) for question in ("what?", "why?", "which one?", "where to?")]
    work = Work()
    engine.metered(work).extend(starts, keys(4))
    ids = [engine.prompt_tokens(start.prompt)[:-1] for start in starts]
    assert work.prompt == len({sequence[: n + 1] for sequence in ids for n in range(len(sequence))})
    later = Work()
    engine.metered(later).extend([engine.start(examples + "how?")], keys(1))
    assert later.prompt <= len("how?")


def states(tokens: tuple[int, ...]) -> KeyValues:
    """Key-values of a sequence, in one piece: every number tells the tokens up to its place."""
    marks = [float(hash(tokens[: n + 1]) % 10**6) for n in range(len(tokens))]
    keys = torch.tensor(marks).view(1, -1, 1)
    return KeyValues(None, [torch.stack([keys, -keys])], len(tokens))


LAYOUT = Layout.of([(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))])  # a layer whose keys and values are single numbers


def marks(known: KeyValues | None, length: int) -> list[float]:
    found = [0.0] * length
    for first, end, (bank,) in known.parts(0, length) if known is not None else ():
        found[first:end] = bank[0, 0, :, 0].tolist()
        assert torch.equal(bank[1], -bank[0])
    return found


def test_the_tree_finds_the_longest_known_beginning_whatever_was_put_and_dropped():
    generator = np.random.default_rng(0)
    tree = Prefixes(memory=400)
    put: list[tuple[int, ...]] = []
    for turn in range(600):
        tokens = tuple(generator.integers(0, 3, generator.integers(1, 12)).tolist())
        tree.put(tokens, states(tokens), finished=bool(turn % 2))
        put.append(tokens)
        assert marks(tree.find(tokens), len(tokens)) == marks(states(tokens), len(tokens))
        if turn % 7 == 0:
            tree.trim()
            put = [one for one in put if (known := tree.find(one)) is not None and known.length == len(one)]
            assert tree.used <= tree.memory
        wanted = tuple(generator.integers(0, 3, 8).tolist())
        known = tree.find(wanted)
        longest = max(len(common_beginning([wanted, one])) for one in [*put, ()])
        length = 0 if known is None else known.length
        assert length >= longest  # beginnings of what was dropped may be left
        assert marks(known, length) == marks(states(wanted[:length]), length)
    nodes = list(_nodes(tree._root))
    assert tree.used == sum(node.bytes for node in nodes)
    assert all(int(node.tokens[0]) == first for parent in nodes for first, node in parent.children.items())


def test_a_sequence_that_parts_after_its_first_token_is_not_copied():
    """Every rollout of a candidate begins with the candidate's last token, and was once copied whole for the sake of it."""
    tree = Prefixes(memory=10**6)
    first, second = (7, *range(100, 150)), (7, *range(200, 250))
    one, other = states(first), states(second)
    for tokens, known in ((first, one), (second, other)):
        tree.put(tokens, known)
    head, *rest = _nodes(tree._root)
    assert head.tokens == (7,)
    assert [node.states[0].untyped_storage().data_ptr() for node in rest] == [
        known.states[0].untyped_storage().data_ptr() for known in (one, other)
    ]
    tree.put((*first[:26], 1), states((*first[:26], 1)))
    assert tree.used == sum(node.bytes for node in _nodes(tree._root)) <= 1.2 * 8 * (1 + 50 + 50 + 1)
    assert marks(tree.find(first), 51) == marks(states(first), 51)


def _nodes(node: Any) -> list[Any]:
    return [below for child in node.children.values() for below in (child, *_nodes(child))]


def test_shared_beginnings_come_in_waves():
    stem = tuple(range(100))
    one, other = (*stem, *[200] * 40), (*stem, *[300] * 40)
    waves = shared_beginnings([(*one, 1), (*one, 2), (*other, 3), (*other, 4), (7, 8)])
    assert waves == [[stem], [one, other]]
    assert shared_beginnings([stem, stem]) == []  # one sequence, not two
    assert shared_beginnings([(1, 2, 3), (1, 2, 4)]) == []  # a beginning too short to compute it apart


def test_trunks_reuse_places_and_grow():
    trunks = Trunks(LAYOUT, torch.device("cpu"))
    short, long = (1, 2, 3), tuple(range(50))
    places = [trunks.add(tokens, states(tokens)) for tokens in (short, long)]
    for place in places:
        trunks.hold(place, 1)
    assert places == [0, 1]
    assert trunks.find((*short, 9)) == 0
    trunks.hold(0, -1)
    trunks.tidy()
    assert trunks.find((*short, 9)) is None
    assert trunks.add((*long, 50), states((*long, 50))) == 0
    assert trunks.find((*long, 50, 51)) == 0
    trunks.hold(0, 1)
    shared = trunks.shared([1, 0, None], [(slice(0, 3), 0)])
    assert shared.tiers is not None
    (tier,) = shared.tiers
    part = tier.trunks
    ((keys, values),) = part.layers
    assert keys[1, 0, :50, 0].tolist() == marks(states(long), 50)
    assert torch.equal(values, -keys)
    assert (part.hidden == 0).sum(dim=-1).flatten().tolist() == [51, 50]
    assert part.members.flatten()[tier.stands[:2]].tolist() == [0, 1]
    assert tier.bare is not None
    assert tier.bare.flatten().tolist() == [False, False, True]
    assert not tier.alone
    for places, alone in (([1, 1], True), ([1, None], False)):
        tiers = trunks.shared(places, [(slice(0, 2), 0)]).tiers
        assert tiers is not None
        assert [each.alone for each in tiers] == [alone]
        assert (tiers[0].bare is None) == alone


def test_prompts_that_share_a_long_beginning_stand_on_one_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exptilt.engines.hf.fast.trunks.EXTRA_TRUNK", 0)
    trunks = Trunks(LAYOUT, torch.device("cpu"))
    stem = tuple(range(200))
    prompts = [(*stem, 300, 301, number, *range(20)) for number in range(3)]
    assert trunks.root(prompts[0], [prompts[0]], states(prompts[0])) is None  # nothing else is there
    assert trunks.root(prompts[0], [(*stem[:100], 9)], states(prompts[0])) is None  # too short
    near = (*stem, 300, 5)  # shares a token more with the others than those that begin otherwise
    root = trunks.root(prompts[0], [near, (*stem, 7), prompts[1]], states(prompts[0]))
    assert root is not None
    assert trunks.held[root] is not None
    assert trunks.length(root) == 200
    leaves = [trunks.add(prompt, states(prompt), root) for prompt in prompts[:2]]
    for leaf in leaves:
        trunks.hold(leaf, 2)
    assert trunks.root(prompts[2], [], states(prompts[2])) == root  # though it shares two tokens more with their trunks
    shared = trunks.shared([leaves[0], leaves[0], leaves[1], leaves[1], None], [(slice(0, 5), 0)])
    assert shared.tiers is not None
    leaf, root_tier = shared.tiers
    assert root_tier.trunks.members.tolist() == [[0, 1, 2, 3]]
    assert leaf.trunks.members.tolist() == [[0, 1], [2, 3]]
    ((keys, _),) = leaf.trunks.layers
    assert keys[0, 0, :, 0].tolist() == marks(states(prompts[0]), 223)[200:]
    assert [tier.bare is not None and tier.bare.flatten().tolist() for tier in shared.tiers] == [[False] * 4 + [True]] * 2
    own = [(slice(0, 2), 0), (slice(2, 5), 0)]  # rows of unlike length
    shared = trunks.shared([leaves[0], leaves[0], leaves[1], leaves[1], None], own)
    assert shared.tiers is None
    assert [len(part.members) for part in shared.trunks] == [1, 2]  # the root alone, and what stands on it
    assert [bare.flatten().isinf().tolist() for _, bare in shared.levels] == [[False] * 4 + [True]] * 2
    trunks.hold(leaves[0], -2)
    trunks.tidy()
    assert [trunk is not None for trunk in trunks.held] == [True, False, True]
    trunks.hold(leaves[1], -2)
    trunks.tidy()
    assert not any(trunks.held)


@pytest.mark.parametrize("place", ["adding the trunk", "reserving slots", "copying into slots"])
def test_trunks_of_rows_that_could_not_join_are_forgotten(place: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Memory may run out while rows join. The trunk made for them was once left behind, for later rows to be put upon."""
    engine = LanguageEngine(read_weights(model_folder, name="small"), Sampling(max_tokens=8))
    slots = slots_of(engine)
    assert slots.trunks is not None
    started = engine.extend([engine.start(PROMPTS[0])] * 3, keys(3, seed=1), tokens=3)  # with columns of their own
    assert len({draft.tokens for draft in started if draft.finish is None}) > 1
    expected = engine.extend(started, keys(3))

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    places = {"adding the trunk": (slots.trunks, "_reserve"), "reserving slots": (slots, "reserve")}
    with monkeypatch.context() as patch:
        thing, name = places.get(place, (slots.banks[0], "write"))
        patch.setattr(thing, name, fail)
        with pytest.raises(ModelError, match="out of memory"):
            engine.extend(started, keys(3))
        for _ in range(2):
            engine.backend.scheduler.call(lambda: None)  # rows leave in a turn after its function
    assert not any(slots.trunks.held)
    again = engine.extend(started, keys(3))
    assert [draft.tokens for draft in again] == [draft.tokens for draft in expected]


def test_prefixes_are_looked_up_once_when_known_and_twice_when_new(model_folder: Path):
    engine = LanguageEngine(read_weights(model_folder, name="small"), Sampling(max_tokens=2))
    prefixes, looked = engine.backend.network.prefixes, []
    find = prefixes.find
    prefixes.find = lambda tokens: (looked.append(len(tokens)), find(tokens))[1]
    for count in (2, 1):
        looked.clear()
        engine.extend([engine.start(PROMPTS[0])] * 3, keys(3))
        assert len(looked) == count


def test_weights_laid_out_anew_give_the_same_products():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(33, 65), nn.ReLU(), nn.Sequential(nn.Linear(65, 7, bias=False)))
    inputs = [torch.randn(3, 5, 33), torch.randn(1, 33), torch.randn(137, 1, 33)]
    with torch.inference_mode():
        plain = [model(states_in) for states_in in inputs]
        pack(model)
        assert sum(isinstance(module, PackedLinear) for module in model.modules()) in (0, 2)  # none where oneDNN is missing
        for states_in, products in zip(inputs, plain, strict=True):
            torch.testing.assert_close(model(states_in), products)


def test_products_come_in_few_sizes():
    """oneDNN compiled a product for every number of rows that was ever in flight: 0.6 MB each, and memory that grew for hours."""
    sizes = [round_up(rows) for rows in range(1, 8193)]
    assert len(set(sizes)) < 80
    assert all(rows <= size <= max(rows + 15, 1.13 * rows) for rows, size in enumerate(sizes, 1))


@pytest.mark.parametrize("vocabulary", [1, 2, 5, 300, 4099])
def test_blocks_of_the_vocabulary_give_the_inverse_of_the_whole(vocabulary: int):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 3 * torch.randn(400, vocabulary, generator=generator)
    logits[:, ::7] = -torch.inf
    logits[:, -1] = 0.0
    uniforms = torch.rand(400, generator=generator, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-53])
    laws = Laws.of([Sampling()] * 400, vocabulary, torch.device("cpu"))
    tokens, logq = draw(logits, laws, uniforms)
    cumulative = functional.softmax(logits.double(), -1).cumsum(-1)
    below = torch.where(tokens > 0, cumulative.gather(-1, (tokens - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    assert bool((below <= uniforms + 1e-6).all())
    assert bool((uniforms <= cumulative.gather(-1, tokens[:, None])[:, 0] + 1e-6).all())
    assert bool(logits.gather(-1, tokens[:, None]).isfinite().all())
    torch.testing.assert_close(logq, log_probability(logits, laws, tokens), atol=1e-12, rtol=0)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_drawing_some_rows_at_a_time_is_drawing_them_all(rows: int, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(17, 300, generator=generator)
    laws = Laws.of([Sampling(), Sampling(top_p=0.8), Sampling(temperature=0.5, top_k=3)] * 6, 300, torch.device("cpu"))
    laws = laws.take(torch.arange(17))
    uniforms = torch.rand(17, generator=generator, dtype=torch.float64)
    tokens, logq = draw(logits, laws, uniforms)
    assert len({*tokens.tolist()}) > 5
    monkeypatch.setattr("exptilt.engines.distribution_torch.BLOCK", rows * 300)
    again, logq_again = draw(logits, laws, uniforms)
    assert tokens.tolist() == again.tolist()
    torch.testing.assert_close(logq, logq_again, atol=1e-6, rtol=0)
    torch.testing.assert_close(logq, log_probability(logits, laws, tokens), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("window", "to"), [((5, 12), (2, 9)), ((5, 12), (0, 7)), ((2, 9), (5, 12)), ((9, 10), (0, 1))])
def test_columns_move_over_each_other(window: tuple[int, int], to: tuple[int, int]):
    bank = Bank(2, Kind(3, 4, torch.float32, torch.device("cpu")), 5, 12)
    bank.states.copy_(torch.randn(bank.states.shape))
    memory, wanted = bank.states.data_ptr(), bank.states[:, :4, :, slice(*window)].clone()
    others = bank.states[:, 4].clone()
    bank.move(4, slice(*window), slice(*to), 5, 12)
    assert torch.equal(bank.states[:, :4, :, slice(*to)], wanted)
    assert torch.equal(bank.states[:, 4], others)
    assert bank.states.data_ptr() == memory
    bank.move(4, slice(*to), slice(20, 20 + to[1] - to[0]), 6, 30)
    assert torch.equal(bank.states[:, :4, :, 20 : 20 + to[1] - to[0]], wanted)
    assert float(bank.states[:, 4:].abs().max()) == 0.0  # what nobody wrote is finite


@pytest.mark.parametrize("longest", [3, 300])  # columns slide, or go into larger memory
def test_rows_are_as_before_where_memory_runs_out_while_they_move(longest: int, monkeypatch: pytest.MonkeyPatch):
    """Some layers had moved then and others not: rows that were in flight went on with the keys of other tokens."""
    layout = Layout.of([(torch.zeros(1, 1, 2), torch.zeros(1, 1, 3))] * 2)
    slots = Slots(layout, torch.device("cpu"), capacity=2, columns=40)
    slots.reserve(2, 30)
    known = KeyValues(None, [torch.randn(2, 1, 4, size) for size in (2, 3)], 4)
    for _ in range(2):
        slots.join(known, 4)
    slots.end += 1
    slots.reserve(2, 0)
    held = [bank.states[:, :2, :, slots.begin : slots.end].clone() for bank in slots.banks]
    shape = [bank.states.shape for bank in slots.banks]
    with monkeypatch.context() as patch:
        patch.setattr(slots.banks[1], "move", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            slots.reserve(2, longest, after=10)
    assert [bank.states.shape for bank in slots.banks] == shape
    for place, wanted in zip(slots.places(1)[:1], held[:1], strict=True):
        assert torch.equal(place.keys[..., :-1, :], wanted[0])
    slots.reserve(2, longest, after=10)
    assert (slots.columns == 40) == (longest == 3)
    for bank, wanted in zip(slots.banks, held, strict=True):
        assert torch.equal(bank.states[:, :2, :, slots.begin : slots.end], wanted)


def test_rows_are_read_written_and_copied_in_a_bank():
    bank = Bank(3, Kind(2, 4, torch.bfloat16, torch.device("cpu")), 3, 8)
    states = torch.randn(3, 2, 5, 4).bfloat16()
    bank.write(1, slice(2, 7), states)
    bank.copy(1, 2, slice(2, 7))
    for slot in (1, 2):
        assert torch.equal(bank.read(slot, slice(2, 7)), states)
    bank.states.zero_()
    kept = bank.read(1, slice(0, 8))
    bank.write(1, slice(2, 7), states)
    assert float(kept.abs().max()) == 0.0  # it was a copy


def test_states_of_one_kind_share_a_few_banks():
    def layer(heads: int, keys: int, values: int) -> tuple[Any, Any]:
        return torch.zeros(heads, 2, keys), torch.zeros(heads, 2, values)

    alike = Layout.of([layer(3, 64, 64)] * 30)
    assert [count for count, _ in alike.banks] == [15] * 4
    assert alike.token_bytes == 30 * 2 * 3 * 64 * 4
    layers = [layer(2, 8, 6), layer(4, 8, 8), layer(2, 8, 6), layer(4, 8, 8)]
    layout = Layout.of(layers)
    assert [(count, kind.heads, kind.size) for count, kind in layout.banks] == [(2, 2, 8), (2, 2, 6), (4, 4, 8)]
    assert layout.layers([["a", "b"], ["c", "d"], ["e", "f", "g", "h"]]) == [("a", "c"), ("e", "f"), ("b", "d"), ("g", "h")]
    assert Layout.of([]) == Layout([], [], [])


def test_prefilling_is_deterministic_under_concurrent_callers(model_folder: Path):
    """Trunks and tree are the worker's alone: callers on many threads get what one caller gets."""
    engine = LanguageEngine(read_weights(model_folder, name="many"), Sampling(max_tokens=12))
    alone = [engine.extend([engine.start(PROMPTS[i % 3])], [Key(3, i)])[0].tokens for i in range(24)]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: engine.extend([engine.start(PROMPTS[i % 3])], [Key(3, i)])[0]}))
        for i in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i].tokens for i in range(24)] == alone


def test_a_long_prompt_does_not_widen_the_columns_of_others(model_folder: Path):
    """Once a row with a prompt of its own gave its width to the places of all rows: 24 GiB for 256 rows of a 135M model."""
    engine = LanguageEngine(read_weights(model_folder, name="small"), Sampling(max_tokens=8))
    slots = slots_of(engine)
    engine.extend([engine.start("a very long prompt, " * 10)], keys(1))
    engine.extend([engine.start(PROMPTS[0])] * 40, keys(40))
    assert slots.columns < 100
    assert slots.capacity <= 50
