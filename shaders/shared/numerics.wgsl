// numerics: what WGSL lacks, without infinities, NaN tests, or sums that a fast-math compiler may fold.

/// A finite stand-in for infinity in masks and running maxima.
const HUGE: f32 = 3.0e38;

/// What stands in the metric row for a number that is not known, as UNKNOWN in src/instrument/row.rs.
const UNKNOWN: f32 = 3.2e38;

/// Share of a sum of squares below which what is left after a mean was subtracted is rounding, not variation: the square of
/// 2^-18, 64 roundings of f32.
const ROUNDING: f32 = 1.4551915e-11;

/// Whether x is a finite number, told by its bits: compilers may assume that comparisons see no NaN.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

/// ln(1 + x) for x >= 0, to f32 precision also where 1 + x rounds to 1. Below 1/16 the series of
/// 2 artanh(x / (2 + x)); its first neglected term is under 2^-40 of the result.
fn log1p(x: f32) -> f32 {
    let s = x / (2.0 + x);
    let q = s * s;
    let series = 2.0 * s * (1.0 + q * (0.33333334 + q * (0.2 + q * (0.14285715 + q * 0.11111111))));
    return select(log(1.0 + x), series, x < 0.0625);
}

/// exp(x) - 1, to f32 precision also near 0, for x <= 0: the Taylor series above -1/2, whose first
/// neglected term is under 2^-26 of the result.
fn expm1(x: f32) -> f32 {
    let series = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * (0.008333334
        + x * (0.0013888889 + x * (0.0001984127 + x * 0.000024801588)))))));
    return select(exp(x) - 1.0, series, x > -0.5);
}
