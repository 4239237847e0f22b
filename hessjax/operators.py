"""Symmetric linear operators on pytrees, and their algebra.

An operator is data: a frozen dataclass registered as a pytree whose arrays are leaves and whose functions are
static, so moving params never retrace and an ensemble is `vmap`. Knows nothing of losses; curvature.py does.
"""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Real

from hessjax import trees
from hessjax.convolutions import fast_in_loops

__all__ = ["Domain", "Operator", "Scaled", "Shifted", "Sum", "Wrapper", "check_operand", "multiply", "pytree", "shift"]


Class = TypeVar("Class", bound=type)


def pytree(cls: Class) -> Class:
    """Registers an operator's dataclass as a pytree: fields marked static are its structure, the others its leaves.

    Rebuilt without `__init__`, whose checks are for users: cotangents are no symmetric matrices, and tree
    transformations put shapes, booleans and placeholders where arrays were.
    """
    names = [f.name for f in dataclasses.fields(cls)]
    static = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]
    leaves = [name for name in names if name not in static]

    def flatten(op):
        return tuple(getattr(op, name) for name in leaves), tuple(getattr(op, name) for name in static)

    def with_keys(op):
        return tuple((jax.tree_util.GetAttrKey(name), getattr(op, name)) for name in leaves), flatten(op)[1]

    def unflatten(structure, children):
        op = object.__new__(cls)
        for name, value in (*zip(static, structure), *zip(leaves, children)):
            object.__setattr__(op, name, value)
        return op

    jax.tree_util.register_pytree_with_keys(cls, with_keys, unflatten, flatten)
    return cls


Scalar = int | float | np.number | Real[np.ndarray | Array, ""]


class Operator(abc.ABC):
    """A symmetric linear map on the space of some params.

    To write one, give `like` and `product`; the algebra, checks and estimators come with it. Register it as a
    pytree (`jax.tree_util.register_dataclass`) so that it can be an argument of compiled functions.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> op = 2 * Matrix(jnp.diag(jnp.array([1.0, 3.0]))) - Matrix(jnp.eye(2))
      >>> op.mv(jnp.array([1.0, 1.0])).tolist()
      [1.0, 5.0]
    """

    __array_ufunc__ = None  # NumPy scalars and arrays on the left leave the arithmetic to the operator

    @property
    @abc.abstractmethod
    def like(self) -> PyTree:
        """Shapes and dtypes of the vectors, as `jax.ShapeDtypeStruct` leaves."""

    @abc.abstractmethod
    def product(self, v: PyTree) -> PyTree:
        """A v for a `v` already of the structure, shapes and dtypes of `like`."""

    def mv(self, v: PyTree) -> PyTree:
        """A v, in the dtypes of `like`; compiled once per loss and shapes, also when called from a Python loop.

        Raises:
          ValueError: `v` has another tree structure or other shapes than `like`.
        """
        v = trees.conform(v, self.like)
        return self.product(v) if self.streamed else _product(self, v)

    def products(self, block: PyTree) -> PyTree:
        """A times every vector of a block (a leading axis on every leaf, of the dtypes of `like`)."""
        if self.streamed:
            vectors = [jax.tree.map(lambda x, k=k: x[k], block) for k in range(len(jax.tree.leaves(block)[0]))]
            return jax.tree.map(lambda *x: jnp.stack(x), *map(self.product, vectors))
        return _products(self, block)

    def linearized(self, num_products: int = 1) -> Operator:
        """The same operator with the work shared by all products done once; itself where there is none.

        Args:
          num_products: how many products are to be taken of it. Work that only many make up for, and the memory of its
            results, is left where they do not.
        """
        return self

    @property
    def streamed(self) -> bool:
        """Whether products are driven from the host, batch by batch, and so cannot be part of a compiled program."""
        return False

    @property
    def num_deflated(self) -> int:
        """Dimensions projected out, whose zero eigenvalues estimators of spectra leave out."""
        return 0

    def confine(self, v: PyTree) -> PyTree:
        """The part of `v` in the space that spectra are taken over; all of it where nothing is deflated."""
        return v

    def domain(self) -> Operator:
        """This operator without its data: `like`, `confine` and dimensions, as programs between products use them."""
        leaves, structure = jax.tree.flatten(self.like)
        return Domain(tuple(leaves), structure)

    def to_scipy(self) -> Any:
        """This operator as a `scipy.sparse.linalg.LinearOperator` on flat vectors in `ravel_pytree` order.

        Example:
          >>> from hessjax.matrices import Matrix
          >>> Matrix(jnp.diag(jnp.array([1.0, 2.0]))).to_scipy().matvec([1.0, 1.0]).tolist()
          [1.0, 2.0]
        """
        from scipy.sparse.linalg import LinearOperator

        unravel = trees.ravel(trees.zeros_like(self.like))[1]

        def matvec(x):
            return np.asarray(trees.ravel(self.mv(unravel(jnp.asarray(x, self.dtype).ravel())))[0]).astype(dtype)

        dtype = np.dtype(jnp.promote_types(self.dtype, jnp.float32))  # SciPy's solvers know none below
        made: Any = LinearOperator  # its arguments are not those its type declares
        return made(self.shape, matvec=matvec, rmatvec=matvec, dtype=dtype)

    def to_lineax(self) -> Any:
        """This operator as a `lineax.FunctionLinearOperator` on the same pytrees, tagged symmetric.

        Raises:
          ImportError: lineax is not installed.
        """
        try:
            import lineax
        except ImportError as error:
            raise ImportError("to_lineax needs lineax; pip install lineax.") from error
        return lineax.FunctionLinearOperator(self.mv, self.like, lineax.symmetric_tag)

    def defects(self) -> dict[str, tuple[Array, str]]:
        """Relative defects only this kind of operator can have, each with its cause, for `check_operator`."""
        return {}

    @property
    def size(self) -> int:
        """n, the number of scalars of a vector."""
        return trees.size(self.like)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n), as of the matrix."""
        return self.size, self.size

    @property
    def dtype(self) -> jnp.dtype:
        """The common dtype of the vectors' leaves."""
        return jnp.result_type(*jax.tree.leaves(self.like))

    def __repr__(self) -> str:
        """Its kind, size and dtype, never the arrays; tree transformations put what has neither in their place."""
        try:
            return f"{type(self).__name__}({self.size} x {self.size}, {self.dtype})"
        except (AttributeError, TypeError, ValueError):
            return object.__repr__(self)

    def __matmul__(self, v: PyTree) -> PyTree:
        return self.mv(v)

    def __add__(self, other: Operator) -> Operator:
        return Sum(self, _same_space(self, other)) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other: Operator) -> Operator:
        return Sum(self, Scaled(_same_space(self, other), -1.0)) if isinstance(other, Operator) else NotImplemented

    def __mul__(self, c: Scalar) -> Operator:
        return Scaled(self, _real(c)) if _is_scalar(c) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Operator:
        return Scaled(self, -1.0)


def check_operand(op: Any) -> None:
    """Refuses what is no operator, which a plain array or function often is by mistake.

    Raises:
      TypeError: says what to wrap it in.
    """
    if not isinstance(op, Operator):
        hint = "hj.Matrix(a)" if hasattr(op, "shape") else "hj.Hessian(loss, params, batch)"
        raise TypeError(f"op is {type(op).__name__}, wanted an operator such as {hint}.")


def multiply(op: Operator, v: PyTree) -> PyTree:
    """A v for a `v` as `Operator.product` takes it: how compiled programs call it, be it in a loop.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> multiply(Matrix(jnp.eye(2)), jnp.ones(2)).tolist()
      [1.0, 1.0]
    """
    return op.product(v) if op.streamed else fast_in_loops(op.product)(v)


@jax.jit
def _product(op: Operator, v: PyTree) -> PyTree:
    return multiply(op, v)


@jax.jit
def _products(op: Operator, block: PyTree) -> PyTree:
    one = partial(multiply, op)
    # On a CPU one after another: together they leave the cache.
    return jax.lax.map(one, block) if jax.default_backend() == "cpu" else jax.vmap(one)(block)


def _is_scalar(c: Any) -> bool:
    if isinstance(c, int | float):
        return True
    return not isinstance(c, Operator | str) and jnp.ndim(c) == 0 and not jnp.iscomplexobj(c)


def _real(c: Scalar) -> Any:
    return float(c) if isinstance(c, int) else c  # an int of any size; jax would take it for an int32


def _same_space(a: Operator, b: Operator) -> Operator:
    def space(op):
        leaves, structure = jax.tree.flatten(op.like)
        return structure, [leaf.shape for leaf in leaves]

    if space(a) != space(b):
        raise ValueError(f"operators act on different spaces: {a.like} and {b.like}; both need the same params.")
    return b


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Sum(Operator):
    """A + B, on the space of A."""

    a: Operator
    b: Operator

    @property
    def like(self) -> PyTree:
        return self.a.like

    def product(self, v: PyTree) -> PyTree:
        if self.streamed:  # from the host, where mv compiles a part that is not streamed
            return self._add(self.a.mv(v), self.b.mv(v))
        return self._add(self.a.product(v), self.b.product(trees.conform(v, self.b.like)))

    def products(self, block: PyTree) -> PyTree:
        other = jax.tree.map(lambda x, like: x.astype(like.dtype), block, self.b.like)
        return self._add(self.a.products(block), self.b.products(other))

    def _add(self, av: PyTree, bv: PyTree) -> PyTree:
        return jax.tree.map(lambda x, y: (x + y).astype(x.dtype), av, bv)

    def linearized(self, num_products: int = 1) -> Operator:
        return Sum(self.a.linearized(num_products), self.b.linearized(num_products))

    @property
    def streamed(self) -> bool:
        return self.a.streamed or self.b.streamed

    def defects(self) -> dict[str, tuple[Array, str]]:
        return {**self.a.defects(), **self.b.defects()}


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Domain(Operator):
    """The space that an operator acts on, alone: it multiplies nothing."""

    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(metadata={"static": True})

    @property
    def like(self) -> PyTree:
        return self.structure.unflatten(self.leaves)

    def product(self, v: PyTree) -> PyTree:
        raise TypeError("a domain is where an operator acts, and has no products; multiply with the operator itself.")


class Wrapper(Operator):
    """An operator made of one other, `a`, on the same space; what it does not say is as `a` says."""

    a: Operator

    @property
    def like(self) -> PyTree:
        return self.a.like

    @property
    def streamed(self) -> bool:
        return self.a.streamed

    @property
    def num_deflated(self) -> int:
        return self.a.num_deflated

    def confine(self, v: PyTree) -> PyTree:
        return self.a.confine(v)

    def domain(self) -> Operator:
        return self.a.domain()

    def defects(self) -> dict[str, tuple[Array, str]]:
        return self.a.defects()


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Scaled(Wrapper):
    """c A for a real scalar c, which is a leaf: another c does not retrace."""

    a: Operator
    c: Any

    def product(self, v: PyTree) -> PyTree:
        return trees.scale(self.c, self.a.product(v))

    def products(self, block: PyTree) -> PyTree:
        return trees.scale(self.c, self.a.products(block))

    def linearized(self, num_products: int = 1) -> Operator:
        return Scaled(self.a.linearized(num_products), self.c)


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Shifted(Wrapper):
    """A + c I; made by `shift`."""

    a: Operator
    c: Any

    def product(self, v: PyTree) -> PyTree:
        return trees.add(self.a.product(v), trees.scale(self.c, v))

    def products(self, block: PyTree) -> PyTree:
        return trees.add(self.a.products(block), trees.scale(self.c, block))

    def linearized(self, num_products: int = 1) -> Operator:
        return Shifted(self.a.linearized(num_products), self.c)


def shift(op: Operator, c: Scalar) -> Operator:
    """A + c I.

    Args:
      op: the operator A.
      c: a real scalar, in the units of A.

    Raises:
      TypeError: `op` is no operator, or `c` not a real scalar.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> shift(Matrix(jnp.eye(2)), 3.0).mv(jnp.ones(2)).tolist()
      [4.0, 4.0]
    """
    check_operand(op)
    if not _is_scalar(c):
        raise TypeError(f"shift needs a real scalar, got {type(c).__name__}; for A + B write a + b.")
    return Shifted(op, _real(c))
