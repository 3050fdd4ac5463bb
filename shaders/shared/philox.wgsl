// philox: Philox4x32-10 (Salmon et al. 2011), bit for bit as src/random.rs.
// A random number is addressed by key (seed, 64 bits) and counter (index, 0, step, stream).

fn mul_wide(a: u32, b: u32) -> vec2<u32> {
    // (high, low) words of the 64-bit product; WGSL has no widening multiplication.
    let a_lo = a & 0xffffu;
    let a_hi = a >> 16u;
    let b_lo = b & 0xffffu;
    let b_hi = b >> 16u;
    let mid = a_hi * b_lo + ((a_lo * b_lo) >> 16u);
    let mid2 = a_lo * b_hi + (mid & 0xffffu);
    return vec2<u32>(a_hi * b_hi + (mid >> 16u) + (mid2 >> 16u), a * b);
}

fn philox(index: u32, step: u32, stream: u32, seed: vec2<u32>) -> vec4<u32> {
    var counter = vec4<u32>(index, 0u, step, stream);
    var key = seed;
    for (var round = 0u; round < 10u; round++) {
        let a = mul_wide(0xD2511F53u, counter.x);
        let b = mul_wide(0xCD9E8D57u, counter.z);
        counter = vec4<u32>(b.x ^ counter.y ^ key.x, b.y, a.x ^ counter.w ^ key.y, a.y);
        key += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return counter;
}

/// A number in [0, n), unbiased to 2^-32.
fn below(word: u32, n: u32) -> u32 {
    return mul_wide(word, n).x;
}
