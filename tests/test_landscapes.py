"""The register of landscapes, their data and their facts; what all rows share is in test_conformance.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj
from hessjax.landscapes import base, data


@pytest.mark.parametrize("pool", [1, 2, 4])
def test_digits_are_pooled_and_standardised_over_the_whole_set(pool):
    from sklearn.datasets import load_digits

    x, y = data.digits(pool=pool)
    raw = load_digits()
    assert x.shape == (1797, (8 // pool) ** 2)
    np.testing.assert_array_equal(y, raw.target)
    spread = x.std(axis=0)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(spread[spread > 0], 1)
    # One pooled pixel by hand: image 5, block (1, 0).
    side = 8 // pool
    blocks = np.stack([im[:, :].reshape(side, pool, side, pool).mean((1, 3)).ravel() for im in raw.images])
    j = side if side > 1 else 0
    assert x[5, j] == pytest.approx((blocks[5, j] - blocks[:, j].mean()) / (blocks[:, j].std() or 1))


def test_fixed_rows_are_spread_over_the_set_and_cover_the_classes():
    whole_x, whole_y = data.digits()
    x, y = data.digits(rows=512)
    again, _ = data.digits(rows=512)
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(x[[0, -1]], whole_x[[0, -1]])
    assert len(x) == 512
    # As even as 512 random rows would be: four standard errors of a class of one tenth.
    assert np.abs(np.bincount(y) / 512 - np.bincount(whole_y) / 1797).max() < 4 * (0.1 * 0.9 / 512) ** 0.5


@pytest.mark.parametrize("bad", [{"pool": 3}, {"rows": 0}, {"rows": 1798}])
def test_digits_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        data.digits(**bad)


def test_noise_is_standard_normal_and_its_seed_is_its_identity():
    x, y = data.noise(4000, 2, 3, seed=1)
    np.testing.assert_array_equal(x, data.noise(4000, 2, 3, seed=1)[0])
    assert not np.array_equal(x, data.noise(4000, 2, 3, seed=2)[0])
    both = np.concatenate([x, y], axis=1)
    assert np.abs(np.cov(both.T) - np.eye(5)).max() < 4 * (2 / 4000) ** 0.5


@pytest.mark.parametrize(("widths", "size"), [((8,), 226), ((), 170), ((5, 4), 16 * 5 + 5 + 5 * 4 + 4 + 4 * 10 + 10)])
def test_digits_mlp_has_the_parameters_its_shape_says(widths, size):
    land = hj.landscapes.get("digits-mlp", widths=widths)
    assert hj.Hessian(land.loss, jax.eval_shape(land.init, jax.random.key(0)), land.batch).size == size
    assert land.classifies
    assert "512 fixed rows" in land.facts["notes"][0]


def test_the_digits_loss_is_the_cross_entropy_of_the_model(float64):
    land = hj.landscapes.get("digits-mlp", dtype="float64", rows=50)
    params = jax.jit(land.init)(jax.random.key(0))
    x, y = (np.asarray(a) for a in land.batch)
    kernels = [np.asarray(params[f"Dense_{k}"]["kernel"]) for k in (0, 1)]
    z = np.tanh(x @ kernels[0]) @ kernels[1]  # biases start at 0
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(land.loss(params, land.batch), -np.log(p[np.arange(50), y]), rtol=1e-12)


def test_memorization_is_the_reference_problem(float64):
    land = hj.landscapes.get("memorization", dtype="float64")
    params = jax.jit(land.init)(jax.random.key(0))
    x, y = (np.asarray(a) for a in land.batch)
    w1, w2 = (np.asarray(params[f"Dense_{k}"]["kernel"]) for k in (0, 1))
    assert w1.size + w2.size == 512
    np.testing.assert_allclose(
        land.loss(params, land.batch), 0.5 * ((np.tanh(x @ w1) @ w2 - y) ** 2).sum(1), rtol=1e-12
    )
    assert not land.classifies


def test_weights_have_the_spread_their_scale_says():
    draws = [
        jax.jit(hj.landscapes.get("digits-mlp", widths=(300,), init_scale=s).init)(jax.random.key(0))
        for s in (1.0, 3.0)
    ]
    for scale, params in zip((1.0, 3.0), draws, strict=True):
        kernel = np.asarray(params["Dense_0"]["kernel"])
        assert kernel.std() == pytest.approx(scale / 4, rel=4 / (2 * kernel.size) ** 0.5)
        assert not np.asarray(params["Dense_0"]["bias"]).any()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((1.0, 2.0), "minimum"),
        ((-1.0, -2.0), "maximum"),
        ((-1.0, 2.0), "strict saddle"),
        ((-1.0, 0.0, 2.0), "strict saddle"),
        ((0.0, 2.0), "degenerate minimum"),
        ((0.0, -2.0), "degenerate maximum"),
        ((0.0, 0.0), "undecided"),
    ],
)
def test_the_kind_of_a_quadratic_is_in_its_facts(values, kind):
    (fact,) = hj.landscapes.get("quadratic", eigenvalues=values).facts["critical_points"]
    assert fact["kind"] == kind


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("digits-mpl", {}, "did you mean 'digits-mlp'"),
        ("nothing-like-it", {}, r"unknown landscape 'nothing-like-it'\. Known: .*digits-mlp"),
        ("digits-mlp", {"width": 8}, "no option 'width'; did you mean 'widths'"),
        ("digits-mlp", {"widths": (0,)}, "widths must be a whole number"),
        ("digits-mlp", {"activation": "thanh"}, "unknown activation 'thanh'; did you mean 'tanh'"),
        ("digits-mlp", {"loss": "hinge"}, "unknown loss 'hinge'"),
        ("digits-mlp", {"init_scale": 0.0}, "init_scale must be above 0"),
        ("memorization", {"rows": 0}, "rows must be a whole number"),
        ("quadratic", {"eigenvalues": ()}, "one or more finite numbers"),
        ("quadratic", {"eigenvalues": (1.0, float("nan"))}, "one or more finite numbers"),
        ("no_such_module_here:make", {}, "no module 'no_such_module_here'"),
        (":make", {}, "wanted package.module:factory"),
        ("math:nothing", {}, "module 'math' has no 'nothing'"),
        ("math:pi", {}, "'pi' is float, wanted a function"),
    ],
)
def test_unknown_names_and_options_are_answered_in_one_line(name, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        hj.landscapes.get(name, **options)
    assert "\n" not in str(caught.value)


def test_a_factory_that_returns_something_else_is_refused():
    with pytest.raises(TypeError, match="returned float"):
        hj.landscapes.get("time:time")


def test_register_adds_a_name_and_refuses_to_take_one(monkeypatch):
    monkeypatch.setattr(base, "_registered", {})

    def dish(size: int = 2):
        """A round bowl."""
        return hj.Landscape("dish", lambda key: jnp.ones(size), lambda p: p @ p)

    hj.landscapes.register("dish", dish)
    hj.landscapes.register("dish", dish)  # a notebook cell run twice is no mistake
    assert "dish" in hj.landscapes.names()
    assert hj.landscapes.describe("dish") == "A round bowl."
    assert hj.landscapes.get("dish", size=3).init(None).shape == (3,)
    for name, factory, error in (
        ("dish", lambda: None, ValueError),
        ("digits-mlp", dish, ValueError),
        ("a:b", dish, ValueError),
    ):
        with pytest.raises(error, match=r"registered already|colon"):
            hj.landscapes.register(name, factory)


def test_every_built_in_landscape_describes_itself_and_its_options():
    for name in base.BUILT_IN:
        assert len(hj.landscapes.describe(name)) > 10
        assert all(
            default is not None or option in ("rows", "inputs")
            for option, default in base.options(name).items()
            if option
        )
        assert hj.landscapes.get(name).name == name


@pytest.mark.parametrize(
    ("facts", "words"), [(None, "facts are NoneType"), ({"critical_points": iter([])}, "wanted a list")]
)
def test_facts_are_a_mapping_and_points_a_list(facts, words, untyped):
    with pytest.raises(TypeError, match=f"landscape 'mine': .*{words}"):
        base.Landscape("mine", lambda key: None, lambda p: 0.0, facts=facts)
