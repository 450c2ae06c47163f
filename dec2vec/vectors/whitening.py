"""Whitening of raw sentence vectors (Su et al. 2021) and its soft relatives: `y = (x - mean) @ kernel`, then cosine.

`kernel = (U / sqrt(L))[:, :k]` for the covariance `U diag(L) U^T` in descending order, so that dropping the last
columns keeps the directions of highest variance. Moments are accumulated in float64: decoder states have a large
common mean, and `E[x x^T] - mean mean^T` in float32 loses the covariance. Fit on training text only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, refuse_pickle
from dec2vec.vectors.affine import Affine, Basis, Facts, Provenance

RANK_TOLERANCE = 1e-7  # of the largest eigenvalue: below it a "variance" is rounding noise
CONSTANT_TOLERANCE = 1e-10  # total standard deviation over the norm of the mean: float32 states hold no less
WELL_ABOVE = 10  # n >= 10 d needs no shrinkage
FORMAT = "dec2vec-whitening-1"
Shrinkage = Literal["auto", "oas"] | float


class Moments:
    """Count, mean and scatter `sum (x - mean)(x - mean)^T` of a stream. Moments can be merged (Chan et al. 1979)."""

    def __init__(self, dimension: int) -> None:
        self.n = 0
        self.mean: Float64[np.ndarray, " dim"] = np.zeros(dimension)
        self.scatter: Float64[np.ndarray, "dim dim"] = np.zeros((dimension, dimension))

    @property
    def dimension(self) -> int:
        return int(self.mean.shape[0])

    @property
    def covariance(self) -> Float64[np.ndarray, "dim dim"]:
        """The unbiased estimate of the covariance, as in `np.cov`."""
        if self.n < 2:
            raise UserError(f"whitening needs at least two sentences, got {self.n}: give more training text")
        return self.scatter / (self.n - 1)

    def update(self, x: Float[np.ndarray, "rows dim"]) -> None:
        """Add rows. UserError for rows with inf or nan, which would spoil every vector."""
        rows = np.asarray(x, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.dimension:
            raise UserError(f"vectors of shape {rows.shape} do not fit moments of dimension {self.dimension}")
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        if bad:
            raise UserError(f"{bad} of {len(rows)} vectors contain inf or nan: load the model with model.dtype float32")
        if len(rows):
            mean = rows.mean(axis=0)
            centred = rows - mean
            self._add(len(rows), mean, centred.T @ centred)

    def merge(self, other: Moments) -> None:
        """Add the moments of other rows, as if these rows had been added here."""
        if other.dimension != self.dimension:
            raise UserError(f"moments of dimension {other.dimension} do not merge into {self.dimension}")
        if other.n:
            self._add(other.n, other.mean, other.scatter)

    def _add(self, n: int, mean: Float64[np.ndarray, " dim"], scatter: Float64[np.ndarray, "dim dim"]) -> None:
        total = self.n + n
        delta = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(delta, delta * (self.n * n / total))
        self.mean = self.mean + delta * (n / total)
        self.n = total


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The principal directions of vectors by descending variance. All kernels below are scalings of them."""

    n: int
    basis: Basis
    variances: Float64[np.ndarray, " dim"]

    @classmethod
    def from_moments(cls, moments: Moments) -> Spectrum:
        """The spectrum of moments. UserError for fewer than two sentences, or if all vectors are equal."""
        refuse_constant(moments)
        values, vectors = _descending_eigh(moments.covariance)
        return cls(moments.n, Basis(moments.mean.copy(), vectors), values)

    @property
    def rank(self) -> int:
        """The number of directions whose variance is more than rounding noise."""
        return _rank(self.variances)


@dataclass(frozen=True, eq=False)
class Whitening(Affine):
    """The affine map that is saved in a model's folder."""

    def truncated(self, k: int) -> Whitening:
        """The map to the first k directions, which equals a fit with this k."""
        if not 1 <= k <= self.dimension:
            raise UserError(f"whitening has {self.dimension} directions, so k must be in 1..{self.dimension}, got {k}")
        kernel = self.kernel[:, :k]
        lengths = np.linalg.norm(kernel, axis=0)  # 1 / standard deviation along each direction
        condition = float((lengths[-1] / lengths[0]) ** 2)
        return replace(self, kernel=kernel, provenance={**self.provenance, "k": k, "condition_number": condition})

    def save(self, path: Path) -> None:
        """Write a safetensors file with the provenance as JSON in its header."""
        metadata = {"format": FORMAT, "provenance": json.dumps(self.provenance, sort_keys=True)}
        atomic_write_bytes(path, serialize(self.arrays(), metadata))

    def arrays(self) -> dict[str, np.ndarray]:
        """What `save` writes, by name."""
        return {"mean": np.ascontiguousarray(self.mean), "kernel": np.ascontiguousarray(self.kernel)}

    @classmethod
    def load(cls, path: Path) -> Whitening:
        if not path.is_file():
            raise UserError(f"whitening file {path} does not exist")
        refuse_pickle(path)
        try:
            with safe_open(path, framework="numpy") as tensors:
                metadata = tensors.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise UserError(f"{path} is not a whitening written by dec2vec ({FORMAT}): fit and save it again")
                return cls(
                    tensors.get_tensor("mean"),
                    tensors.get_tensor("kernel"),
                    json.loads(metadata["provenance"]),
                )
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise UserError(f"{path} is not a complete safetensors whitening file ({error}): write it again") from error


def oas_shrinkage(variances: Float64[np.ndarray, " dim"], n: int) -> float:
    """Oracle approximating shrinkage (Chen et al. 2010, eq. 23 as in scikit-learn). It needs the eigenvalues only."""
    dimension = len(variances)
    mean_square = float((variances**2).sum()) / dimension**2
    mean_variance = float(variances.mean())
    denominator = (n + 1) * (mean_square - mean_variance**2 / dimension)
    return 1.0 if denominator <= 0 else min(1.0, (mean_square + mean_variance**2) / denominator)


def fit_whitening(
    moments: Moments | Spectrum,
    k: int | None = None,
    shrinkage: Shrinkage = "auto",
    skip_top: int = 0,
    provenance: Facts | None = None,
) -> Whitening:
    """Fit a whitening to the first k directions after the top `skip_top` ones, which are a nuisance in some decoders.

    The covariance becomes `(1 - rho) S + rho tr(S)/d I`. "auto" means rho = 0 if n >= 10 d and OAS otherwise, "oas"
    always means OAS. With rho = 0, k is limited to the numerical rank, and n <= k + 1 is refused: with k = n - 1 all
    pairs of fitted points have the cosine -1/(n-1), whatever they say.
    """
    spectrum = moments if isinstance(moments, Spectrum) else Spectrum.from_moments(moments)
    scales, facts = whitening_scales(spectrum, k, shrinkage, skip_top)
    return Whitening(spectrum.basis.mean, spectrum.basis.kernel(scales), {**(provenance or {}), **facts})


def whitening_scales(
    spectrum: Spectrum, k: int | None = None, shrinkage: Shrinkage = "auto", skip_top: int = 0
) -> tuple[Float64[np.ndarray, " dim"], Provenance]:
    """`fit_whitening` as scales of the spectrum's directions, with the facts of the fit. Scale 0 drops a direction."""
    n, dimension = spectrum.n, len(spectrum.variances)
    if not 0 <= skip_top < dimension or not 1 <= (dimension - skip_top if k is None else k) <= dimension - skip_top:
        raise UserError(
            f"k = {k} with skip_top = {skip_top} does not fit {dimension} dimensions: 1 <= k <= d - skip_top"
        )
    rho = _shrinkage(spectrum.variances, n, shrinkage)
    wanted = dimension - skip_top if k is None else k
    if rho == 0.0:
        _refuse_degenerate(n, skip_top + wanted, wanted)
    shrunk = (1.0 - rho) * spectrum.variances + rho * spectrum.variances.mean()
    rank = _rank(shrunk)
    if rank <= skip_top:
        raise UserError(f"the sentences vary in only {rank} directions and skip_top drops {skip_top} of them")
    kept = slice(skip_top, min(skip_top + wanted, rank))
    scales = np.zeros(dimension)
    scales[kept] = 1.0 / np.sqrt(shrunk[kept])
    facts: Provenance = {
        "n": n,
        "d": dimension,
        "k": len(shrunk[kept]),
        "rho": rho,
        "skip_top": skip_top,
        "rank": rank,
    }
    facts["condition_number"] = float(shrunk[kept][0] / shrunk[kept][-1])
    return scales, facts


def soft_scales(
    spectrum: Spectrum, k: int | None = None, *, power: float, ridge: float = 0.0
) -> tuple[Float64[np.ndarray, " dim"], Provenance]:
    """Scales `(L + ridge mean(L))^(-power/2)` of the first k directions, with the facts of the fit.

    Power 0 is PCA without scaling, power 1 with ridge 0 is whitening, and power 1 with a ridge is soft ZCA (Diera et
    al. 2024) in the PCA basis, which has the same cosines. Without a ridge, the limits of whitening hold for every
    power above 0.
    """
    dimension = len(spectrum.variances)
    wanted = dimension if k is None else k
    if not 0.0 <= power <= 1.0 or ridge < 0.0 or not 1 <= wanted <= dimension:
        raise UserError(
            f"soft whitening: power {power}, ridge {ridge}, k {k}; power must be in 0..1, ridge not negative and k in "
            f"1..{dimension}"
        )
    is_noisy = power > 0.0 and ridge == 0.0
    if is_noisy:
        _refuse_degenerate(spectrum.n, wanted, wanted)
    softened = spectrum.variances + ridge * spectrum.variances.mean()
    stop = min(wanted, spectrum.rank) if is_noisy else wanted
    scales = np.zeros(dimension)
    scales[:stop] = softened[:stop] ** (-power / 2)
    return scales, {"n": spectrum.n, "d": dimension, "k": stop, "power": power, "ridge": ridge, "rank": spectrum.rank}


def refuse_constant(moments: Moments) -> None:
    """Raise UserError if all vectors are equal: after centring they would be rounding noise."""
    spread = float(np.sqrt(np.trace(moments.covariance)))
    if spread <= CONSTANT_TOLERANCE * float(np.linalg.norm(moments.mean)) or spread == 0.0:
        raise UserError(
            f"all {moments.n} vectors are equal, so nothing can be fitted: check the pooling, layer and prompt"
        )


def _refuse_degenerate(n: int, directions: int, k: int) -> None:
    if n <= directions + 1:
        raise UserError(
            f"whitening to k = {k} from {n} sentences is degenerate: "
            "give more sentences, a smaller k, or shrinkage auto"
        )


def _rank(variances: Float64[np.ndarray, " dim"]) -> int:
    return int((variances > RANK_TOLERANCE * variances[0]).sum())


def _shrinkage(variances: Float64[np.ndarray, " dim"], n: int, shrinkage: Shrinkage) -> float:
    if shrinkage == "auto":
        return oas_shrinkage(variances, n) if n < WELL_ABOVE * len(variances) else 0.0
    if shrinkage == "oas":
        return oas_shrinkage(variances, n)
    if not 0.0 <= shrinkage <= 1.0:
        raise UserError(f"shrinkage must be auto, oas or a number in 0..1, got {shrinkage}")
    return float(shrinkage)


def _descending_eigh(
    covariance: Float64[np.ndarray, "dim dim"],
) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim dim"]]:
    """Eigenvalues clipped at 0 and eigenvectors with a fixed sign, so that different machines find the same kernel."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.clip(values[::-1], 0.0, None), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return values, vectors * signs
