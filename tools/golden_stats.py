"""Golden numbers for the tests of src/stats: what other programs say of the same data.

    pip install scipy lifelines ruptures arch statsmodels arviz
    python3 tools/golden_stats.py tests/golden

Nothing here shares code with the Rust side; data are drawn by numpy, rounded, and stored with the results.
"""

import json
import sys

import arviz
import numpy as np
import ruptures
from arch.bootstrap import optimal_block_length
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_g3, load_lung, load_waltons
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import restricted_mean_survival_time
from scipy import optimize, stats
from statsmodels.regression.linear_model import burg
from statsmodels.tsa.stattools import pacf_burg


def listed(values, digits=6):
    """Rounded, so that both sides start from the same numbers and the file stays small."""
    return [round(float(value), digits) for value in np.ravel(values)]


def wandering(rng, count, correlation):
    out = np.zeros(count + 100)
    noise = rng.standard_normal(count + 100)
    for t in range(1, count + 100):
        out[t] = correlation * out[t - 1] + noise[t]
    return out[100:]


def special():
    normal = [{"x": x, "below": stats.norm.cdf(x)} for x in (-8.0, -3.0, -1.2, -0.1, 0.3, 1.0, 2.5, 5.0)]
    chi = [
        {"x": x, "freedom": k, "above": stats.chi2.sf(x, k)}
        for x, k in ((0.1, 1), (3.84, 1), (40.0, 1), (0.5, 2), (9.0, 2), (7.8, 3), (60.0, 7), (5.0, 8), (30.0, 19))
    ]
    return {"normal": normal, "chi_squared": chi}


def bootstrap():
    out = {}
    rng = np.random.default_rng(1)
    skewed = np.array(listed(np.exp(rng.standard_normal(25))))
    for name, values, statistic in (
        ("mean", skewed, np.mean),
        ("median_of_skewed", np.array(listed(rng.exponential(size=31))), np.median),
    ):
        of = lambda method, distribution=None: stats.bootstrap(
            (values,), statistic, confidence_level=0.95, n_resamples=999, method=method, rng=np.random.default_rng(7)
        )
        bca, percentile = of("BCa"), of("percentile")
        assert np.array_equal(bca.bootstrap_distribution, percentile.bootstrap_distribution)
        out[name] = {
            "values": values.tolist(),
            "draws": bca.bootstrap_distribution.tolist(),
            "standard_error": bca.standard_error,
            "bca": [bca.confidence_interval.low, bca.confidence_interval.high],
            "percentile": [percentile.confidence_interval.low, percentile.confidence_interval.high],
        }
    out["series"] = []
    for count, correlation in ((300, 0.5), (400, 0.7), (500, 0.9)):
        values = listed(wandering(rng, count, correlation))
        out["series"].append({"values": values, "stationary": float(optimal_block_length(np.array(values))["stationary"].iloc[0])})
    return out


def survival():
    lung, waltons, g3 = load_lung().dropna(subset=["ph.ecog"]), load_waltons(), load_g3()
    cases = (
        # Times, whether the event came, groups: ties and censoring in all, two groups and three.
        (lung["time"], lung["status"], lung["ph.ecog"].clip(upper=2), 600),
        (waltons["T"], waltons["E"], waltons["group"], 60),
        (g3["time"], g3["event"].astype(int), g3["histology"] + g3["group"], 30),
    )
    out = []
    for times, came, group, until in cases:
        came = (came == came.max()).astype(int)
        groups = []
        for name in sorted(group.unique()):
            t, e = times[group == name].to_numpy(float), came[group == name].to_numpy(int)
            curve = KaplanMeierFitter().fit(t, e, alpha=0.05)
            at = np.unique(t)[:: max(1, len(np.unique(t)) // 12)]
            interval = curve.confidence_interval_survival_function_
            inner = [x for x in at if 0 < curve.predict(x) < 1]
            row = lambda column: [float(interval.iloc[interval.index.get_loc(x), column]) for x in inner]
            # lifelines' own median passes over shares that miss a half by rounding.
            halved = curve.survival_function_.index[curve.survival_function_.iloc[:, 0] <= 0.5 + 1e-12]
            groups.append(
                {
                    "times": t.tolist(), "came": e.tolist(),
                    "at": at.tolist(), "left": [float(curve.predict(x)) for x in at],
                    "inner": inner, "low": row(0), "high": row(1),
                    "median": float(halved[0]) if len(halved) else None,
                    "restricted_mean": float(restricted_mean_survival_time(curve, t=min(until, t.max()))),
                }
            )
        until = min([until] + [max(g["times"]) for g in groups])
        for g in groups:
            curve = KaplanMeierFitter().fit(g["times"], g["came"])
            g["restricted_mean"] = float(restricted_mean_survival_time(curve, t=until))
        test = multivariate_logrank_test(times, group, came)
        out.append({"groups": groups, "until": until, "statistic": test.test_statistic, "p": test.p_value})
    return out


def change_points():
    out = []
    rng = np.random.default_rng(5)
    for count, jumps, scales in (
        (120, {40: 2.0, 80: -1.0}, {}),
        (200, {50: 1.2, 60: 3.0, 130: 0.0}, {}),
        (200, {70: 1.5}, {100: 4.0, 150: 0.5}),
    ):
        level = np.zeros(count)
        scale = np.ones(count)
        for at, value in jumps.items():
            level[at:] = value
        for at, value in scales.items():
            scale[at:] = value
        values = listed(level + scale * rng.standard_normal(count))
        searches = []
        for cost in ("l2", "normal"):
            for penalty in (3.0, 2 * np.log(count), 3 * np.log(count)):
                signal = np.array(values).reshape(-1, 1)
                model = {"params": {"add_small_diag": True}} if cost == "normal" else {}
                # Every place, and the exact search beside the pruned one.
                found = ruptures.Pelt(model=cost, min_size=5, jump=1, **model).fit(signal).predict(pen=penalty)
                exact = [count]
                if len(found) > 1:
                    exact = ruptures.Dynp(model=cost, min_size=5, jump=1, **model).fit(signal).predict(len(found) - 1)
                assert found == exact, (found, exact)
                searches.append({"cost": cost, "penalty": penalty, "at": found[:-1]})
        out.append({"values": values, "searches": searches})
    return out


def logistic():
    out = []
    rng = np.random.default_rng(9)
    curve = lambda x, floor, amplitude, centre, width: floor + amplitude / (1 + np.exp(-(x - centre) / width))
    for count, truth, noise in ((60, (0.1, 0.8, 900.0, 60.0), 0.03), (200, (5.0, -4.0, 400.0, 90.0), 0.5), (45, (0.0, 1.0, 700.0, 30.0), 0.1)):
        x = np.linspace(0, 1800, count).round(3)
        y = np.array(listed(curve(x, *truth) + noise * rng.standard_normal(count)))
        values, covariance = optimize.curve_fit(curve, x, y, p0=truth, ftol=1e-15, xtol=1e-15, gtol=1e-15)
        out.append({"x": x.tolist(), "y": y.tolist(), "values": values.tolist(), "errors": np.sqrt(np.diag(covariance)).tolist()})
    return out


def autoregression():
    out = []
    rng = np.random.default_rng(13)
    for count, coefficients in ((150, (0.7,)), (400, (1.2, -0.5)), (100, ())):
        values = np.zeros(count + 100)
        for t in range(len(coefficients), count + 100):
            values[t] = sum(c * values[t - 1 - i] for i, c in enumerate(coefficients)) + rng.standard_normal()
        values = np.array(listed(values[100:] + 3.0))
        most = min(int(10 * np.log10(count)), count // 4)
        # Of each order: coefficients, and the variance of one by the partial correlations. Hurvich and Tsai (1989) choose.
        partial = pacf_burg(values, nlags=most)[0][1:]
        variances = values.var() * np.cumprod(np.append(1, 1 - partial**2))
        criterion = lambda p: count * np.log(variances[p]) + 2 * (p + 1) * count / (count - p - 2)
        order = min(range(most + 1), key=criterion)
        rho, variance = burg(values, order=order)[0] if order else [], variances[order]
        out.append({"values": values.tolist(), "coefficients": np.ravel(rho).tolist(), "variance": float(variance)})
    return out


def lags():
    rng = np.random.default_rng(17)
    first, second = (np.array(listed(rng.standard_normal(40))) for _ in range(2))
    a, b = ((x - x.mean()) / x.std() for x in (first, second))
    whole = np.correlate(b, a, "full") / len(a)
    middle = len(a) - 1
    return {"first": first.tolist(), "second": second.tolist(), "correlations": whole[middle - 6 : middle + 7].tolist()}


def orders():
    sign = [
        {"before": b, "after": a, "p": stats.binomtest(b, a + b, 0.5).pvalue if a + b else 1.0}
        for b, a in ((0, 0), (1, 0), (8, 0), (7, 1), (3, 9), (10, 10), (30, 12))
    ]
    rng = np.random.default_rng(19)
    p = [listed(rng.uniform(size=20) ** 3), listed(np.repeat(rng.uniform(size=4), 3))]
    return {"sign": sign, "discoveries": [{"p": x, "q": stats.false_discovery_control(x).tolist()} for x in p]}


def similarity():
    """Unbiased linear CKA as in Nguyen, Raghu and Kornblith (2021, "Do wide and deep networks learn the same things?", equations
    2 and 3), with the HSIC_1 of Song et al. (2012, equation 5), in matrices."""

    def hsic(k, l):
        n = len(k)
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
        one = np.ones((n, 1))
        middle = (one.T @ k @ one @ one.T @ l @ one) / ((n - 1) * (n - 2))
        return ((np.trace(k @ l) + middle - 2 / (n - 2) * one.T @ k @ l @ one) / (n * (n - 3))).item()

    out = []
    rng = np.random.default_rng(23)
    for examples, width, shared in ((12, 5, 0.8), (30, 40, 0.5), (9, 2, 0.0)):
        x = np.round(rng.standard_normal((examples, width)), 6)
        y = np.round(shared * x @ rng.standard_normal((width, width + 2)) + rng.standard_normal((examples, width + 2)) + 3.0, 6)
        k, l = x @ x.T, y @ y.T
        cka = hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
        out.append({"examples": examples, "x": x.ravel().tolist(), "y": y.ravel().tolist(), "hsic": hsic(k, l), "cka": float(cka)})
    return out


def chains():
    """Even and odd lengths, draws that hang on and that alternate, one chain, chains that have not met, chains that drift."""
    out = []
    rng = np.random.default_rng(29)
    for count, length, correlation, apart, drift in (
        (4, 50, 0.0, 0.0, 0.0),
        (3, 101, 0.7, 0.0, 0.0),
        (1, 200, 0.5, 0.0, 0.0),
        (2, 80, -0.5, 0.0, 0.0),
        (3, 60, 0.5, 1.5, 0.0),
        (2, 41, 0.3, 0.0, 0.05),
    ):
        draws = [wandering(rng, length, correlation) + apart * chain + drift * np.arange(length) for chain in range(count)]
        draws = np.array([listed(chain) for chain in draws])
        # Cut here, since its method "split" wants two chains.
        halves = np.concatenate([draws[:, : length // 2], draws[:, -(length // 2) :]])
        found = {"r_hat": arviz.rhat(halves, method="identity"), "effective": arviz.ess(draws, method="mean")}
        found |= {"mean": draws.mean(), "error": arviz.mcse(draws, method="mean")}
        out.append({"chains": draws.tolist(), **{name: float(value) for name, value in found.items()}})
    return out


def main(folder):
    parts = (special, bootstrap, survival, change_points, logistic, autoregression, lags, orders, similarity, chains)
    with open(f"{folder}/stats.json", "w") as file:
        json.dump({part.__name__: part() for part in parts}, file)


if __name__ == "__main__":
    main(sys.argv[1])
