//! The embedding example, run as a test.

#[path = "../../examples/embed.rs"]
#[allow(dead_code, reason = "its main is for people")]
mod example;

#[test]
fn a_host_trains_in_its_own_encoder_and_reads_the_ring_in_its_own_shader() {
    let [before, after] = example::run().unwrap();
    assert_eq!(before, vec![0.0; example::STEPS as usize], "nothing was measured before the first step");
    assert!((after[0] - 32.0f32.ln()).abs() < 0.5, "an untrained net knows nothing: {}", after[0]);
    assert!(after.windows(2).all(|pair| pair[1] < pair[0]), "the loss falls: {after:?}");
}
