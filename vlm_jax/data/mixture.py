"""Several sources as one, in the proportion of their weights.

The examples of each source come at even distances, not by chance: with weights W, the j-th example
drawn of source k is due at time (2 j + 1) sum(W) / (2 W[k]), and whatever is due first comes first.
So every stretch of the stream, every batch among them, has its proportions to within one example
per source. All of it is computed from the position with whole numbers; nothing is stored per
example.
"""

import logging
import math
from collections.abc import Sequence
from fractions import Fraction

from vlm_jax.data import order
from vlm_jax.data.schema import DataError, Example, Source, inside


class Mixture:
    """Several sources as one, evenly interleaved in the proportion of their weights.

    weights: one per source, not negative, not all 0; by default the lengths, so that every example
    comes once. Only their proportions matter, to six digits. A source of weight 0 stays out. The
    mixture is as long as it takes to show every example at least once at these weights; meanwhile
    the other sources start over, and their examples then keep their id. In training every source is
    shuffled anew each time it starts over, and none of its examples comes twice before all have
    come once. Ids are prefixed by the source's position: "1/cat".

    Raises ValueError for weights that do not fit, DataError for an empty source.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None) -> None:
        self._lengths = [len(source) for source in sources]
        if not self._lengths or not all(self._lengths):
            raise DataError("a mixture needs at least one source, and none that is empty")
        self._shares = whole_shares(self._lengths if weights is None else weights, sources)
        self._sum, self._sources = sum(self._shares), tuple(sources)
        self.name = "+".join(source.name for source in sources)
        used = [(n, share) for n, share in zip(self._lengths, self._shares, strict=True) if share]
        rounds = max(Fraction(length, share) for length, share in used)
        self._length = sum(math.ceil(share * rounds) for _, share in used)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        which, use = self.drawn(index)
        example = self._sources[which][use % self._lengths[which]]
        return {**example, "id": f"{which}/{example['id']}"}

    def order(self, seed: int) -> order.Order:
        """The order of training, see `vlm_jax.data.order`: every source in an order of its own."""
        parts = [
            order.order_of(source, order.derived_seed(seed, number)) if share else None
            for number, (source, share) in enumerate(zip(self._sources, self._shares, strict=True))
        ]

        def position(draw: int) -> int:
            which, use = self.drawn(draw)
            part = parts[which]
            assert part is not None  # what has no weight is never due
            return self._position(which, part(use))

        return position

    def counts(self, draws: int) -> list[int]:
        """How many of the first `draws` examples of the stream come from each source."""
        if draws <= 0:
            return [0] * len(self._shares)
        which, use = self.drawn(draws - 1)
        time, share = 2 * use + 1, self._shares[which]
        return [self._before(k, time, share, k <= which) for k in range(len(self._shares))]

    def table(self, draws: int | None = None) -> str:
        """A line per source: its name, examples, share of the stream, and how many examples and
        epochs of it are among the first `draws` (by default one epoch of the mixture).
        """
        counts = self.counts(len(self) if draws is None else draws)
        rows = zip(self._sources, self._lengths, self._shares, counts, strict=True)
        return "\n".join(
            f"{source.name}: {length:,} examples, {share / self._sum:.2%} of the stream, "
            f"{count:,} drawn ({count / length:.2f} epochs)"
            for source, length, share, count in rows
        )

    def drawn(self, draw: int) -> tuple[int, int]:
        """Which source the example at a position of the endless stream comes from, and how many of
        that source came before it.
        """
        # Up to time t, source k has had round(t W[k] / sum(W)) draws: all counts together are
        # within half a source each of t, so the draw is due near time `draw`.
        margin = len(self._shares) // 2 + 1
        start = max(draw - margin, 0)
        due, passed = [], 0
        for which, share in enumerate(self._shares):
            if not share:
                continue
            first = self._until(share, start)
            passed += first
            use = first
            while (2 * use + 1) * self._sum <= 2 * share * (draw + margin + 1):
                due.append((Fraction(2 * use + 1, share), which, use))
                use += 1
        due.sort()
        _, which, use = due[draw - passed]
        return which, use

    def _until(self, share: int, time: int) -> int:
        """How many draws with this share are due before a whole time."""
        return -((self._sum - 2 * share * time) // (2 * self._sum)) if time else 0

    def _before(self, which: int, odd: int, share: int, also: bool) -> int:
        """How many draws of a source are due before time odd * sum(W) / (2 share), or `also` at
        it.
        """
        ours = self._shares[which]  # 2 j + 1 < odd * ours / share, so 2 j < (odd ours - share) / ..
        top = odd * ours - share
        return max(top // (2 * share) + 1 if also else -(-top // (2 * share)), 0)

    def _position(self, which: int, index: int) -> int:
        """Where the mixture first shows an example of one of its sources."""
        share, odd = self._shares[which], 2 * index + 1
        return sum(
            self._before(other, odd, share, other < which) for other in range(len(self._shares))
        )


def whole_shares(weights: Sequence[float], sources: Sequence[Source]) -> list[int]:
    """Weights as whole numbers without a common divisor. ValueError naming what does not fit."""
    names = [source.name for source in sources]
    if len(weights) != len(names):
        raise ValueError(f"{len(names)} sources need as many weights, not {len(weights)}: {names}")
    for name, weight in zip(names, weights, strict=True):
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"the weight of {name} is {weight}: use a number of at least 0")
    if not any(weights):
        raise ValueError(f"all weights of {names} are 0: at least one must be positive")
    for name, weight in zip(names, weights, strict=True):
        if 0 < weight < max(weights) / 10**6 and not isinstance(weight, int):
            raise ValueError(f"the weight of {name}, {weight}, is below a millionth of the largest")
    scaled = _scaled(weights)
    divisor = math.gcd(*scaled)
    return [share // divisor for share in scaled]


def _scaled(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of the weights: exactly where that needs no large ones."""
    if all(isinstance(weight, int) for weight in weights):
        return [int(weight) for weight in weights]
    top = max(weights)
    parts = [Fraction(weight / top).limit_denominator(10**6) for weight in weights]
    scale = math.lcm(*(part.denominator for part in parts))
    if scale > 10**12:
        return [round(weight / top * 10**9) for weight in weights]
    return [int(part * scale) for part in parts]


def announce(mixed: Mixture) -> Mixture:
    """The same mixture, after logging what one epoch of it consists of."""
    logging.getLogger(__name__).info("a mixture of\n%s", mixed.table())
    return mixed
