// edit: chunks of an edit, as Chunk in src/intervene/pulse/edit.rs, and what is drawn for its elements

const WORDS: u32 = 10u;
const TOWARD: u32 = 1u;
const NOISE: u32 = 2u;
const FLIP: u32 = 3u;
const NORM: u32 = 4u;

/// The random word of an element at this step.
fn drawn(chunk: u32, element: u32) -> u32 {
    return philox(element, clock[0], chunks[chunk + 9u], vec2<u32>(chunks[chunk + 7u], chunks[chunk + 8u])).x;
}
