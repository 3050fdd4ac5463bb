// edit: parts of what an edit changes, as in src/intervene/pulse/edit.rs, and what is drawn for its elements

const WORDS: u32 = 10u;
const TOWARD: u32 = 1u;
const NOISE: u32 = 2u;
const FLIP: u32 = 3u;
const NORM: u32 = 4u;

/// The random word of an element at this step.
fn drawn(part: u32, element: u32) -> u32 {
    return philox(element, clock[0], parts[part + 9u], vec2<u32>(parts[part + 7u], parts[part + 8u])).x;
}
