import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import quick

from recourse_gen.noise import Noise
from recourse_gen.rows import Rows


def rows_of(count, numbers=2, tokens=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Rows(
        torch.rand(count, numbers, generator=generator), torch.randint(0, 5, (count, tokens), generator=generator)
    )


def correlation(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@quick
@given(st.integers(0, 3), st.integers(0, 3), st.integers(-(2**40), 2**40), st.integers(0, 10**6))
def test_a_row_gets_the_same_numbers_in_any_company(numbers, tokens, seed, order):
    rows = rows_of(7, numbers, max(tokens, 1 - numbers))
    shuffled = torch.randperm(7, generator=torch.Generator().manual_seed(order))
    together, elsewhere = Noise.of(rows, seed), Noise.of(rows.take(shuffled), seed)
    alone = Noise.of(rows.take(shuffled[:1]), seed)
    for columns in (1, 4):
        expected = together.uniform(5, columns)[shuffled]
        assert torch.equal(elsewhere.uniform(5, columns), expected)
        assert torch.equal(alone.uniform(5, columns), expected[:1])


@quick
@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5))
def test_samples_are_numbered_from_first_sample(first, samples, draws):
    rows = rows_of(3)
    whole, later = Noise.of(rows, 1), Noise.of(rows, 1, first_sample=first)
    for _ in range(draws):
        assert torch.equal(whole.uniform(first + samples, 2)[:, first:], later.uniform(samples, 2))


@quick
@given(st.integers(0, 3), st.integers(0, 5), st.integers(1, 4), st.integers(1, 3))
def test_many_draws_at_a_time_are_the_draws_one_by_one(before, draws, samples, columns):
    one, many = Noise.of(rows_of(3), 1), Noise.of(rows_of(3), 1)
    for noise in (one, many):
        for _ in range(before):
            noise.uniform(2, 2)
    expected = torch.stack([one.uniform(samples, columns) for _ in range(draws)] or [torch.zeros(3, samples, columns)])
    assert torch.equal(many.uniforms(draws, samples, columns), expected[:draws])
    assert torch.equal(many.uniform(1, 1), one.uniform(1, 1))


def test_the_number_of_samples_and_columns_does_not_move_the_stream():
    rows = rows_of(4)
    small, large = Noise.of(rows, 0), Noise.of(rows, 0)
    for _ in range(3):
        assert torch.equal(small.uniform(2, 1), large.uniform(50, 6)[:, :2, :1])


def test_minus_zero_is_zero():
    zero = Rows(torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64))
    minus = Rows(-zero.num, zero.cat)
    assert torch.equal(zero.num, minus.num)
    assert torch.equal(Noise.of(zero, 5).uniform(4, 4), Noise.of(minus, 5).uniform(4, 4))


def test_uniform_is_uniform():
    draws = Noise.of(rows_of(100), 11).uniform(100, 100).numpy().ravel()
    assert draws.dtype == np.float32
    assert stats.kstest(draws, "uniform").pvalue > 1e-4
    low_bits = np.bincount((draws * 2**20).astype(np.int64) % 256, minlength=256)
    assert stats.chisquare(low_bits).pvalue > 1e-4


def test_normal_is_normal():
    draws = Noise.of(rows_of(50), 12).normal(50, 50).numpy().ravel()
    assert np.isfinite(draws).all()
    assert stats.kstest(draws, "norm").pvalue > 1e-4


def test_streams_are_unrelated():
    rows = rows_of(200)
    draws = Noise.of(rows, 0).uniform(50, 10).numpy()
    bound = 5 / np.sqrt(200 * 50 * 9)
    assert abs(correlation(draws[1:], draws[:-1])) < bound, "rows"
    assert abs(correlation(draws[:, 1:], draws[:, :-1])) < bound, "samples"
    assert abs(correlation(draws[:, :, 1:], draws[:, :, :-1])) < bound, "columns"
    for seed in (1, -1, 2**31, 1 << 16):
        assert abs(correlation(draws, Noise.of(rows, seed).uniform(50, 10))) < bound, seed
    noise, again = Noise.of(rows, 0), []
    for _ in range(4):
        again.append(noise.uniform(50, 10).numpy())
    for i in range(4):
        for j in range(i):
            assert abs(correlation(again[i], again[j])) < bound, (i, j)


def test_rows_that_differ_in_one_cell_have_unrelated_streams():
    base = rows_of(1)
    variants = [base]
    for n in range(base.num.shape[1]):
        num = base.num.clone()
        num[0, n] = torch.nextafter(num[0, n], torch.tensor(2.0))
        variants.append(Rows(num, base.cat))
    for c in range(base.cat.shape[1]):
        cat = base.cat.clone()
        cat[0, c] += 1
        variants.append(Rows(base.num, cat))
    swapped = Rows(base.num.flip(1), base.cat)
    draws = [Noise.of(rows, 3).uniform(200, 50).numpy() for rows in [*variants, swapped]]
    for i in range(len(draws)):
        for j in range(i):
            assert abs(correlation(draws[i], draws[j])) < 5 / np.sqrt(10_000), (i, j)


def unmix(x):
    """Inverse of the 32-bit finaliser, from the inverses of its steps."""
    x ^= x >> 16
    x = x * pow(0x846CA68B, -1, 2**32) % 2**32
    x ^= (x >> 15) ^ (x >> 30)
    x = x * pow(0x7FEB352D, -1, 2**32) % 2**32
    return x ^ (x >> 16)


def mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
    return x ^ (x >> 16)


def test_the_extreme_words_stay_inside_the_open_interval():
    """Keys are solved for that make the first draw's word 0, and the largest there is."""
    counter = mix(mix(0x632BE5AB) ^ 1)
    for word, side in ((0, 0.0), (0xFFFFFFFF, 1.0)):
        first = unmix(unmix(word) ^ mix(counter)) ^ counter
        assert mix(mix(first ^ counter) ^ mix(counter)) == word
        value = Noise(torch.tensor([[first, 0]])).uniform(1, 1)
        assert 0 < value < 1
        assert abs(value - side) < 1e-6, "the keys no longer reach the extreme; solve for them again"
        assert Noise(torch.tensor([[first, 0]])).normal(1, 1).isfinite().all()


def test_every_bit_of_the_seed_counts():
    rows = rows_of(1)
    seeds = [0, 1, -1, 2**32, 2**32 - 1, 2**40, -(2**40), 2**63 - 1]
    assert len({Noise.of(rows, seed).uniform(1, 1).item() for seed in seeds}) == len(seeds)
