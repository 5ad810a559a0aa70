"""Image diffusion with discrete noise, enumerated: the weights of all samplers are exact through the engine's public contract."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft, known_logq
from exptilt.engines.image import Discrete, ImageEngine
from exptilt.keys import Key
from exptilt.testing import check_sampler
from exptilt.testing.toys import Toy
from tests.engines.image.toys import BENT_COIN, COIN, TWO, Formula, bent, engine_of


def by_hand(tokens: tuple[int, ...], noise: Discrete, network: Any = bent) -> float:
    """The picture that names of noise lead to, from DDPM's formulas (Ho et al., equations 6, 7 and 15) written out again."""
    x, kept = noise.values[tokens[0]], [*TWO, 1.0]
    for step, (now, then) in enumerate(itertools.pairwise(kept)):
        e = network(np.array([[x]]), np.array([now]), ["x"], np.ones(1))[0, 0]
        alpha, clean = now / then, (x - math.sqrt(1 - now) * e) / math.sqrt(now)
        x = (math.sqrt(then) * (1 - alpha) * clean + math.sqrt(alpha) * (1 - then) * x) / (1 - now)
        if step + 1 < len(TWO):
            x += math.sqrt((1 - then) / (1 - now) * (1 - alpha)) * noise.values[tokens[step + 1]]
    return x


def reward(prompt: str, drafts: list[Draft]) -> list[float]:
    """Reads the picture alone, as rewards of users do; the highest pictures are excluded."""
    return [-math.inf if draft.output[0] > 0.3 else 1.5 * float(draft.output[0]) for draft in drafts]


def toy(noise: Discrete = COIN, proposal: Discrete | None = None) -> Toy:
    engine = engine_of(Formula(bent, TWO), noise)
    cheap = None if proposal is None else replace(engine, noise=proposal)
    law = {}
    for tokens in itertools.product(range(2), repeat=2):
        x = by_hand(tokens, noise)
        p = math.prod(noise.probs[token] for token in tokens)
        law[tokens] = 0.0 if x > 0.3 else p * math.exp(1.5 * x)
    return Toy(Target(engine, reward, 1.0, cheap), law, "a denoiser with coins for noise")


def test_toys_exclude_some_pictures_and_not_others() -> None:
    masses = list(toy().gamma.values())
    assert 0 < sum(mass == 0 for mass in masses) < 4


SAMPLERS = {
    "independent": xt.Independent(2),
    "ets": xt.ETS(candidates=2, block=1),
    "chain": xt.ETS(candidates=2, block=1, returns="chain"),
    "value": xt.ETS(candidates=2, block=1, value=lambda prompt, drafts: [float(len(draft.tokens)) for draft in drafts]),
    "smc": xt.SMC(particles=2, block=1),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_weights_over_denoising_steps_are_exact(sampler: Any) -> None:
    assert check_sampler(sampler, [toy(), toy(BENT_COIN)]) == 2


@pytest.mark.parametrize("sampler", [xt.Independent(2), xt.ETS(candidates=2, block=1, propose_candidates=True)], ids=repr)
def test_weights_with_a_proposal_of_other_noise_are_exact(sampler: Any) -> None:
    assert check_sampler(sampler, [toy(COIN, BENT_COIN)]) == 1


def test_chains_keep_their_promises() -> None:
    check_sampler(xt.SuffixMCMC(steps=4), [toy()])


def test_a_value_reads_what_an_unfinished_picture_is_expected_to_become() -> None:
    engine = engine_of(Formula(bent, (0.2, 0.5, 0.9)), COIN)
    [draft] = engine.extend([engine.start("x")], [Key(0)], 2)
    x = COIN.values[draft.tokens[0]]
    noise = bent(np.array([[x]]), np.array([0.2]), [], np.ones(1))[0, 0]
    assert draft.finish is None
    assert draft.output[0] == pytest.approx((x - math.sqrt(0.8) * noise) / math.sqrt(0.2), abs=1e-12)


def test_paths_are_the_same_in_one_call_or_several() -> None:
    """Each call begins from kept states; blocks of one, and forgotten states, lead to the same picture to the last digit."""
    engine = engine_of(Formula(bent, TWO))
    start = engine.start("x")
    [whole] = engine.extend([start], [Key(3)])
    forgetful = engine_of(Formula(bent, TWO))
    [again] = forgetful.drawn_again([whole])
    assert again.output == whole.output
    assert isinstance(engine, ImageEngine)
    assert np.allclose(forgetful.score([whole])[0], known_logq(whole), rtol=1e-12)
