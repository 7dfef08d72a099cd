"""Runs in an environment of its own, which has tsfel: microseconds for a window by each set of features, as JSON.

tsfel has mean, deviation, RMS, range, skewness and kurtosis as we do, and the peak by its minimum and maximum; it lacks
the mean of the magnitude and the four factors. Called as its documentation does.
"""

import json
import timeit
import warnings

import numpy as np
import pandas as pd
import tsfel

STATISTICAL = ("Mean", "Standard deviation", "Root mean square", "Min", "Max", "Peak to peak distance", "Skewness")
SPECTRAL = ("Spectral centroid", "Spectral spread", "Spectral entropy", "Spectral kurtosis")


def chosen(domain: str, names: tuple[str, ...]) -> dict[str, dict[str, object]]:
    return {domain: {name: tsfel.get_features_by_domain(domain)[domain][name] for name in names}}


def microseconds(features: dict[str, dict[str, object]]) -> float:
    window = pd.DataFrame(np.random.default_rng(0).standard_normal((4096, 3)).astype(np.float32), columns=list("abc"))
    call = timeit.Timer(lambda: tsfel.time_series_features_extractor(features, window, fs=25_600, verbose=0))
    number, took = call.autorange()
    return min(took, *call.repeat(4, number)) / number * 1e6


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    statistical = chosen("statistical", (*STATISTICAL, "Kurtosis"))
    both = statistical | chosen("spectral", SPECTRAL)
    print(json.dumps({"time_domain": microseconds(statistical), "all": microseconds(both)}))
