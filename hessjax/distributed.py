"""One model over the devices of many processes: start them, lay out rows and params, gather results.

Sharding is a property of the data: operators and estimators are the same functions as on one device, called by every
process with the same arguments, and the compiler inserts the communication. Independent inits need none of this: a
sweep's workers share a store.

Example, of one process; of several, each begins with `start()`:
  >>> import hessjax as hj
  >>> loss = lambda p, batch: (jnp.tanh(batch["x"] @ p["w"]) - batch["y"]) ** 2
  >>> devices = mesh()
  >>> rows = shard_rows({"x": np.ones((8, 3)), "y": np.zeros(8)}, devices)
  >>> H = hj.Hessian(loss, shard_params({"w": np.ones(3)}, devices), rows)
  >>> gather(hj.slq(H, jax.random.key(0), num_steps=3, num_probes=2)).nodes.shape
  (2, 3)
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from hessjax import trees
from hessjax.devices import agree_on_memory
from hessjax.operators import Operator
from hessjax.rows import has_rows, num_rows, take

__all__ = ["from_first", "gather", "mean_over_rows", "mesh", "shard_params", "shard_rows", "start"]

ROWS, PARAMS = "rows", "params"


def start(
    coordinator: str | None = None,
    *,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_device_ids: Sequence[int] | None = None,
    timeout: int = 300,
) -> None:
    """Connects this process to the others of its job; call it in each of them before anything else of jax.

    Under Slurm, Open MPI and Kubernetes and on Cloud TPUs nothing need be given. Elsewhere coordinator, num_processes
    and process_id are, or the variables HESSJAX_COORDINATOR, HESSJAX_NUM_PROCESSES and HESSJAX_PROCESS_ID.

    Args:
      coordinator: address host:port of process 0, on a free port.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      local_device_ids: accelerators of this host that are this process's; None: as the cluster says, else all.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: no cluster was detected and not all was given; jax has been used before; a number out of range.
      ConnectionError: the others were not there in time.

    Example:
      >>> start(num_processes=2, process_id=2, coordinator="localhost:1234")
      Traceback (most recent call last):
      ValueError: process_id must be from 0 to num_processes - 1; got 2 of 2.
    """
    coordinator = coordinator or os.environ.get("HESSJAX_COORDINATOR")
    num_processes, process_id = _number("num_processes", num_processes), _number("process_id", process_id)
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must be from 0 to num_processes - 1; got {process_id} of {num_processes}.")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator must be host:port, such as node001:1234; got {coordinator!r}.")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # between CPUs; ignored elsewhere
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, local_device_ids, initialization_timeout=timeout
        )
    except ValueError as error:
        raise ValueError(
            "no cluster was detected (Slurm, Open MPI, Kubernetes, Cloud TPU); start one process per device with srun "
            "or mpirun, or give coordinator, num_processes and process_id (HESSJAX_COORDINATOR=host:port, "
            f"HESSJAX_NUM_PROCESSES, HESSJAX_PROCESS_ID). jax: {error}"
        ) from error
    except RuntimeError as error:
        if "before any" in str(error) or "only be called once" in str(error):
            raise ValueError("start must be called once, before anything else of jax; put it at the top.") from error
        raise ConnectionError(f"the processes of this job did not find each other: {error}") from error
    agree_on_memory()


def _number(name: str, given: int | None) -> int | None:
    text = os.environ.get(f"HESSJAX_{name.upper()}") if given is None else given
    if text is None or str(text).isdigit():
        return None if text is None else int(text)
    raise ValueError(f"{name} must be a whole number from 0 up, got {text!r}.")


def mesh(*, params: int = 1) -> Mesh:
    """All devices of all processes as a mesh with axes "rows" and "params"; every process must call it.

    Args:
      params: devices that share one copy of the params; the rows of a batch are spread over what is left.

    Raises:
      ValueError: `params` does not divide the number of devices.

    Example:
      >>> mesh().shape["rows"] == jax.device_count()
      True
    """
    count = jax.device_count()
    if params < 1 or count % params:
        raise ValueError(f"params must divide the number of devices, {count}; got {params}.")
    agree_on_memory()  # here too, for who has called jax.distributed.initialize himself
    return jax.make_mesh((count // params, params), (ROWS, PARAMS), axis_types=(AxisType.Auto, AxisType.Auto))


def shard_rows(batch: PyTree, mesh: Mesh, *, local: bool = False) -> PyTree:
    """A batch with its rows spread over the mesh's "rows", for an operator to be made of.

    Args:
      batch: the whole batch, the same on every process, which keeps its own rows alone; scalars pass whole.
      mesh: as `mesh` makes it.
      local: `batch` is this process's own rows, as many as every other's: data that no process could hold.

    Raises:
      ValueError: rows that do not divide evenly, which `mean_over_rows` takes; local rows of different numbers, or of
        processes that share one copy of the params.

    Example:
      >>> rows = shard_rows({"x": np.ones((8, 2)), "temperature": 1.0}, mesh())
      >>> rows["x"].shape, rows["x"].sharding.spec[0]
      ((8, 2), 'rows')
    """
    count = _common_count(num_rows(batch), mesh) if local else num_rows(batch)
    if count % mesh.shape[ROWS]:
        raise ValueError(
            f"{count} rows do not divide evenly over {mesh.shape[ROWS]} devices; take "
            f"{count - count % mesh.shape[ROWS]}, or distributed.mean_over_rows(make, batch, mesh), which takes all."
        )
    spread = _place(mesh, ROWS)
    own = lambda x: jax.make_array_from_process_local_data(spread, _on_host(x))
    place = own if local else lambda x: _placed(x, spread)
    return jax.tree.map(lambda x: _with_keys(place, x) if has_rows(x) else _on_all(x, mesh), batch)


def _common_count(own: int, mesh: Mesh) -> int:
    """Rows of all processes, each of which brings as many."""
    if mesh.local_mesh.shape[ROWS] * jax.process_count() != mesh.shape[ROWS]:
        raise ValueError("local rows need devices that share params to be of one process; pass the whole batch.")
    counts = multihost_utils.process_allgather(np.int32(own)).ravel()
    if np.any(counts != own):
        raise ValueError(f"every process needs as many local rows as the others; they have {counts.tolist()}.")
    return own * jax.process_count()


def shard_params(params: PyTree, mesh: Mesh) -> PyTree:
    """Params with every leaf spread over the mesh's "params" along its longest axis that divides, others whole.

    With one device along "params" a copy is on every device. Vectors of an operator, and what estimates keep of them,
    are then spread over the same devices by the compiler.

    Raises:
      ValueError: params differ between processes.

    Example:
      >>> shard_params({"w": np.ones((4, 3))}, mesh())["w"].shape
      (4, 3)
    """
    _check_same(params)
    return jax.tree.map(lambda x: _placed(x, _place(mesh, *_axes(jnp.shape(x), mesh.shape[PARAMS]))), params)


def _axes(shape: tuple[int, ...], share: int) -> list[str | None]:
    """The partition of a leaf."""
    dividing = [k for k, n in enumerate(shape) if n and n % share == 0]
    if share == 1 or not dividing:
        return []
    longest = max(dividing, key=lambda k: (shape[k], k))
    return [PARAMS if k == longest else None for k in range(longest + 1)]


def mean_over_rows(make: Callable[[PyTree], Any], batch: PyTree, mesh: Mesh) -> Any:
    """What `make(rows)` is of all rows, whatever their number, where it is a mean over them.

    Rows that divide evenly are spread over the mesh, the few left over are on every device, and both are weighed by
    their numbers.

    Args:
      make: of a batch, an operator or a tree of arrays; of separate rows, not of rows that are coupled.
      batch: the whole batch, the same on every process.
      mesh: as `mesh` makes it.

    Example:
      >>> import hessjax as hj
      >>> loss = lambda p, x: (x @ p) ** 2
      >>> H = mean_over_rows(lambda rows: hj.Hessian(loss, jnp.zeros(2), rows), np.ones((9, 2)), mesh())
      >>> hj.dense(H).tolist()
      [[2.0, 2.0], [2.0, 2.0]]
    """
    count = num_rows(batch)
    even = count - count % mesh.shape[ROWS]
    left = lambda: make(jax.tree.map(lambda x: _on_all(x, mesh), take(batch, even, count)))
    if even == 0:
        return left()
    first = make(shard_rows(take(batch, 0, even), mesh))
    return first if even == count else _mean(even / count, first, left())


def _mean(share: float, a: Any, b: Any) -> Any:
    if isinstance(a, Operator):
        return share * a + (1 - share) * b
    return jax.tree.map(lambda x, y: share * x + (1 - share) * y, a, b)


def from_first(tree: PyTree) -> PyTree:
    """Arrays as process 0 has them, on every host: what was computed apart may differ in its last bits.

    Example:
      >>> from_first({"w": np.ones(2)})["w"].tolist()
      [1.0, 1.0]
    """
    return jax.tree.map(lambda x: _with_keys(multihost_utils.broadcast_one_to_all, x), tree)


def gather(tree: PyTree) -> PyTree:
    """Results as NumPy arrays on every process: of what is spread over them, such as eigenvectors, all of it.

    Example:
      >>> gather(shard_rows(np.arange(8.0), mesh())).tolist()
      [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """

    def whole(x: Any) -> np.ndarray:
        apart = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True) if apart else x)

    return jax.tree.map(whole, tree)


def _place(mesh: Mesh, *axes: str | None) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*axes))


def _placed(x: Any, sharding: NamedSharding) -> Array:
    """An array laid out over all processes, of which each puts its own part there."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.device_put(x, sharding)
    host = _on_host(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _on_host(x: Any) -> np.ndarray:
    """In the dtype that jax has for it."""
    return np.asarray(x, jnp.result_type(x))


def _on_all(x: Any, mesh: Mesh) -> Array:
    """What process 0 has, on every device."""
    return _with_keys(lambda y: _placed(y, _place(mesh)), from_first(x))


def _with_keys(function: Callable, x: Any) -> Any:
    """`function` of an array, or of what a typed PRNG key is made of."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(function(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    return function(x)


def _check_same(params: PyTree) -> None:
    """Refuses params of which copies would differ: loops that end when they converge would then wait for ever."""
    own = [x for x in jax.tree.leaves(params) if not (isinstance(x, jax.Array) and not x.is_fully_addressable)]
    if jax.process_count() == 1 or not own:
        return
    mark = 0
    for x in own:
        mark = zlib.crc32(np.ascontiguousarray(x).tobytes(), mark)
    if np.unique(multihost_utils.process_allgather(np.uint32(mark))).size > 1:
        raise ValueError(
            f"params differ between processes ({trees.size(params)} scalars); make them from the same key or file, or "
            "take those of process 0: distributed.from_first(params)."
        )
