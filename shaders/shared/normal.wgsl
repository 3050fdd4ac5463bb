// normal: a standard normal number of a random word: the inverse of the distribution function by Wichura's rational
// functions (1988, AS 241, PPND7), without sine or cosine, whose precision drivers may choose. As normal in src/gpu/philox.rs.
// Of the word 24 bits count: q = p - 1/2 is exact, and never at an end.

fn normal(word: u32) -> f32 {
    let q = (f32(i32(word >> 8u) - 8388608) + 0.5) * 5.9604644775390625e-8;
    let r = 0.180625 - q * q;
    let middle = q * (((59.10937472 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)
        / (((67.1875636 * r + 78.757757664) * r + 17.895169469) * r + 1.0);
    let s = sqrt(-log(0.5 - abs(q))) - 1.6;
    let tail = (((0.17023821103 * s + 1.3067284816) * s + 2.75681539) * s + 1.4234372777)
        / ((0.12021132975 * s + 0.7370016425) * s + 1.0);
    return select(select(tail, -tail, q < 0.0), middle, abs(q) <= 0.425);
}
