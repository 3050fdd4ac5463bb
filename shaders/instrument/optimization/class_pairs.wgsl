// class_pairs: mean cosine of pairs of examples of one class, and of different ones; then the same with the classes dealt out
//          anew. Pairs of which one is 0 are left out; UNKNOWN where there is none
// shapes   products [R, N, N]  targets [R, rows]  order, shuffled [R, N]  count [R, 1]  out [R, 4]
// grid     [1, 1, R]
// numerics f32, tree of fixed shape
struct Params {
    n: u32, products_replica: u32, targets_replica: u32, order_replica: u32, shuffled_replica: u32, count_replica: u32,
    out_replica: u32,
}
const WG: u32 = 256u;
#import reduce
#import numerics
@tensor var<storage, read> products: array<f32>;
@tensor var<storage, read> targets: array<u32>;
@tensor var<storage, read> order: array<u32>;
@tensor var<storage, read> shuffled: array<u32>;
@tensor var<storage, read> count: array<f32>;
@tensor var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn class_pairs(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = params.n;
    let r = wid.z;
    let here = u32(count[r * params.count_replica]);
    let first = r * params.products_replica;
    let classes = r * params.targets_replica;
    // Sums of cosines and numbers of pairs: of one class, of all; and of one class as it is dealt out.
    var sums = vec3<f32>(0.0);
    var pairs = vec3<f32>(0.0);
    for (var at = lid; at < n * n; at += WG) {
        let i = at / n;
        let j = at % n;
        if (i < j && j < here) {
            let a = products[first + i * (n + 1u)];
            let b = products[first + j * (n + 1u)];
            if (a > 0.0 && b > 0.0) {
                let cosine = clamp(products[first + at] / sqrt(a) / sqrt(b), -1.0, 1.0);
                let alike = targets[classes + order[r * params.order_replica + i]] == targets[classes + order[r * params.order_replica + j]];
                let dealt = targets[classes + shuffled[r * params.shuffled_replica + i]] == targets[classes + shuffled[r * params.shuffled_replica + j]];
                let weights = vec3<f32>(select(0.0, 1.0, alike), 1.0, select(0.0, 1.0, dealt));
                sums += cosine * weights;
                pairs += weights;
            }
        }
    }
    var whole = vec3<f32>(0.0);
    var number = vec3<f32>(0.0);
    whole.x = workgroup_sum(sums.x, lid);
    whole.y = workgroup_sum(sums.y, lid);
    whole.z = workgroup_sum(sums.z, lid);
    number.x = workgroup_sum(pairs.x, lid);
    number.y = workgroup_sum(pairs.y, lid);
    number.z = workgroup_sum(pairs.z, lid);
    if (lid < 4u) {
        let same = select(whole.z, whole.x, lid < 2u);
        let same_pairs = select(number.z, number.x, lid < 2u);
        let others = lid % 2u == 1u;
        let sum = select(same, whole.y - same, others);
        let number_of = select(same_pairs, number.y - same_pairs, others);
        out[r * params.out_replica + lid] = select(UNKNOWN, sum / max(number_of, 1.0), number_of > 0.0);
    }
}
