"""Linear imputation (ROAD): each missing pixel is the weighted mean of its eight neighbours, all of
them at once.

    x_i = sum_j w_ij x_j / sum_j w_ij over the neighbours j inside the image, w = 1/6 direct and
    1/12 diagonal

for every missing pixel i; known pixels keep their values (Rong et al., ICML 2022, section 4;
authors' code). That is a sparse symmetric positive definite system per image with as many unknowns
as missing pixels, up to 45,000 at 224x224. It is solved by conjugate gradients with a multigrid
V-cycle as preconditioner: bilinear interpolation, Galerkin coarse operators, one Jacobi sweep
before and after. The error falls about tenfold per iteration whatever the mask, so five or six
iterations give 1e-4; only element-wise operations are used, so many systems run side by side on any
device.

Layout: grids are stored flat with a ring of one pixel around them, [M,C,(h+2)*(w+2)], M systems
with C right-hand sides each, so that a neighbour is an offset. The ring counts as known and holds
zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

TOLERANCE = 1e-4
"""The solver stops when the estimated error is below this, and then still removes that estimate
once.
"""

MAX_ITERATIONS = 60
"""Never reached in tests, where every mask took at most ten."""

COARSEST = 8
"""Side at which the system is solved directly."""

SIDE_BY_SIDE = 4 * 224**2
"""Pixels solved together on a CPU: more of them leave the cache, fewer let the overhead of each
operation show.
"""

# Offsets of four neighbours; the other four follow by symmetry.
_OFFSETS = ((0, 1), (1, -1), (1, 0), (1, 1))


@torch.inference_mode()
def impute(images: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """Return images [M,3,H,W] whose missing pixels [M,H,W] (bool) are imputed linearly; at least
    one must be known.
    """
    step = (
        max(1, SIDE_BY_SIDE // missing[0].numel()) if images.device.type == "cpu" else len(images)
    )
    return torch.cat(
        [_impute(images[i : i + step], missing[i : i + step]) for i in range(0, len(images), step)]
    )


def _impute(images: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    unknown = missing[:, None].to(images.dtype)
    finest = _Finest(unknown)
    levels: list[_Level] = [finest]
    while max(levels[-1].height, levels[-1].width) > COARSEST:
        levels.append(levels[-1].coarser())
    inverse = levels[-1].inverse()
    # Less the mean of what is known, so that rounding is relative to the contrast and not to the
    # level.
    known = images * (1 - unknown)
    mean = known.sum((2, 3), keepdim=True) / (1 - unknown).sum((2, 3), keepdim=True)
    b = finest.weigh_known(finest.flat((images - mean) * (1 - unknown)))
    x = finest.grid(_solve(levels, inverse, b))
    return torch.where(missing[:, None], x + mean, images)


def _solve(levels: list[_Level], inverse: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Solve A x = b by preconditioned conjugate gradients, each right-hand side for itself."""
    finest = levels[0]
    x, r = torch.zeros_like(b), b.clone()
    z = _cycle(levels, inverse, r)
    p, rz = z.clone(), _dot(r, z)
    for _ in range(MAX_ITERATIONS):
        # z is nearly the error, since a cycle is nearly the inverse: this is what the tolerance is
        # about.
        if float(z.abs().max()) < TOLERANCE:
            break
        q = finest.residual(torch.zeros_like(p), p).neg_()
        step = rz / _dot(p, q).clamp(min=torch.finfo(b.dtype).tiny)
        x.addcmul_(step, p)
        r.addcmul_(step, q, value=-1)
        z = _cycle(levels, inverse, r)
        before, rz = rz, _dot(r, z)
        p = torch.addcmul(z, rz / before.clamp(min=torch.finfo(b.dtype).tiny), p)
    return x + z


def _dot(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first * second).sum(-1, keepdim=True)


def _cycle(levels: list[_Level], inverse: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return nearly A^-1 b: one symmetric V-cycle."""
    level = levels[0]
    if len(levels) == 1:
        return torch.matmul(b, inverse)
    x = level.jacobi * b
    below = levels[1]
    x_below = _cycle(levels[1:], inverse, level.restrict(level.residual(b, x), below))
    level.add_prolonged(x, x_below, below)
    return x.addcmul_(level.jacobi, level.residual(b, x))


def _spread(x: torch.Tensor, row: int) -> torch.Tensor:
    """Return x [...,n] filtered by [1,2,1] x [1,2,1], without the first and last row + 1
    entries.
    """
    for offset in (1, 1, row, row):
        x = x[..., :-offset] + x[..., offset:]
    return x


class _Level:
    """A symmetric system on a grid: (A x)_i = diagonal_i x_i - sum_j edge_ij x_j, over the eight
    neighbours.

    unknown, diagonal: [M,1,h,w].  edges: the weight to the neighbour at each of `_OFFSETS`, 0
    unless both are unknown.
    """

    def __init__(
        self, unknown: torch.Tensor, diagonal: torch.Tensor, edges: list[torch.Tensor]
    ) -> None:
        self.height, self.width = unknown.shape[2:]
        self.row = self.width + 2
        self.unknown, self.diagonal = self.flat(unknown), self.flat(diagonal, 1.0)
        self.jacobi = self.unknown / self.diagonal
        self.edges = [
            (self.flat(edge), y * self.row + x)
            for edge, (y, x) in zip(edges, _OFFSETS, strict=True)
        ]

    def flat(self, grid: torch.Tensor, ring: float = 0.0) -> torch.Tensor:
        """Put a ring around grids [M,C,h,w] and flatten them."""
        return F.pad(grid, (1, 1, 1, 1), value=ring).flatten(2)

    def grid(self, flat: torch.Tensor) -> torch.Tensor:
        """View flat grids as [M,C,h,w], without the ring."""
        return flat.view(*flat.shape[:2], self.height + 2, self.row)[..., 1:-1, 1:-1]

    def residual(self, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return b - A x; x must be 0 where nothing is unknown."""
        y = torch.addcmul(b, self.diagonal, x, value=-1)
        for edge, offset in self.edges:
            weight = edge[..., :-offset]
            y[..., :-offset].addcmul_(weight, x[..., offset:])
            y[..., offset:].addcmul_(weight, x[..., :-offset])
        return y

    # --- to the next coarser grid, whose points are every second one of every second row, and back

    def restrict(self, r: torch.Tensor, below: _Level) -> torch.Tensor:
        """Return P^T r on the coarser grid; r is overwritten."""
        grid = self.grid(r)
        if self.height % 2 == 0:
            grid[..., -1, :] *= 2
        if self.width % 2 == 0:
            grid[..., -1] *= 2
        rows = F.pad(_spread(r, self.row), (0, 2)).view(*r.shape[:2], self.height, self.row)
        return below.flat(rows[..., ::2, : self.width : 2] / 4) * below.unknown

    def add_prolonged(self, x: torch.Tensor, x_below: torch.Tensor, below: _Level) -> None:
        """Add P x_below to x: bilinear; beyond the last coarse row and column they continue as they
        are.
        """
        inner = slice(self.row + 1, -self.row - 1)
        spread = _spread(self._scatter(below.grid(x_below)), self.row)
        x[..., inner].addcmul_(self.unknown[..., inner], spread, value=0.25)

    def _scatter(self, coarse: torch.Tensor) -> torch.Tensor:
        """Put coarse values [M,C,h',w'] at their places of this grid, zeros between, flat."""
        grid = coarse.new_zeros(*coarse.shape[:2], self.height + 2, self.row)
        grid[..., 1:-1:2, 1:-1:2] = coarse
        if self.height % 2 == 0:
            grid[..., -1, :] = grid[..., -3, :]
        if self.width % 2 == 0:
            grid[..., -1] = grid[..., -3]
        return grid.flatten(2)

    def coarser(self) -> _Level:
        """Return the Galerkin operator P^T A P on the coarser grid.

        A coarse basis function reaches only its eight neighbours, so those of points three apart
        never meet, and nine products A P v with v = 1 on every third point of every third row hold
        all entries.
        """
        unknown = self.grid(self.unknown)[..., ::2, ::2]
        height, width = unknown.shape[2:]
        y = torch.arange(height, device=unknown.device)[:, None]
        x = torch.arange(width, device=unknown.device)[None]
        colours = F.one_hot(y % 3 * 3 + x % 3, 9).permute(2, 0, 1).to(unknown.dtype) * unknown
        shell = _Shell(unknown)
        fine = self.unknown.new_zeros(len(unknown), 9, self.unknown.shape[-1])
        self.add_prolonged(fine, shell.flat(colours), shell)
        product = self.residual(torch.zeros_like(fine), fine).neg_()
        entries = shell.grid(self.restrict(product, shell))

        def entry(dy: int, dx: int) -> torch.Tensor:
            colour = (y + dy) % 3 * 3 + (x + dx) % 3
            there = (y + dy < height) & (x + dx < width) & (x + dx >= 0)
            return entries.gather(1, colour.expand(len(unknown), 1, height, width)) * there

        return _Level(unknown, entry(0, 0) + (1 - unknown), [-entry(dy, dx) for dy, dx in _OFFSETS])

    def inverse(self) -> torch.Tensor:
        """Return the inverse matrix [M,n,n] (n with the ring), for the coarsest grid; zero outside
        the unknown.
        """
        unit = torch.eye(
            self.unknown.shape[-1], device=self.unknown.device, dtype=self.unknown.dtype
        )
        columns = unit * self.unknown
        matrix = self.residual(torch.zeros_like(columns), columns).neg_() + unit * (
            1 - self.unknown
        )
        inverse: torch.Tensor = torch.linalg.inv(matrix.double()).to(self.unknown.dtype)
        return inverse * self.unknown * self.unknown.transpose(1, 2)


class _Shell(_Level):
    """A grid without an operator, while that is being made."""

    def __init__(self, unknown: torch.Tensor) -> None:
        none = torch.zeros_like(unknown)
        super().__init__(unknown, torch.ones_like(unknown), [none] * len(_OFFSETS))


class _Finest(_Level):
    """The system itself, times 12: weights 2 and 1 are exact, as sixths and twelfths are not.

    Twelve times the weights, and 4 in the centre, are [1,2,1] x [1,2,1], so no stencil has to be
    stored.
    """

    def __init__(self, unknown: torch.Tensor) -> None:
        height, width = unknown.shape[2:]
        self.height, self.width, self.row = height, width, width + 2
        self.edges = []
        self.unknown = self.flat(unknown)
        inside = self.flat(torch.ones_like(unknown[:1]))
        weights = torch.zeros_like(inside)
        weights[..., self._inner] = _spread(inside, self.row)
        self.centre = torch.where(
            self.unknown > 0, weights, 1.0
        )  # what the neighbours weigh together, plus 4
        self.diagonal = torch.where(self.unknown > 0, self.centre - 4, 1.0)
        self.jacobi = self.unknown / self.diagonal

    @property
    def _inner(self) -> slice:
        return slice(self.row + 1, -self.row - 1)

    def residual(self, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return b - A x; x must be 0 where nothing is unknown."""
        y = torch.addcmul(b, self.centre, x, value=-1)
        y[..., self._inner].addcmul_(self.unknown[..., self._inner], _spread(x, self.row))
        return y

    def weigh_known(self, known: torch.Tensor) -> torch.Tensor:
        """Return the right-hand side: what known values (0 elsewhere) weigh at unknown places."""
        return self.residual(torch.zeros_like(known), known * (1 - self.unknown)) * self.unknown
