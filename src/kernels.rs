//! Every kernel of the crate. A test compiles each variant of each for all backends, on no GPU at all.

use std::collections::HashSet;
use std::sync::OnceLock;

use crate::autograd::Checked;
use crate::error::Result;
use crate::gpu::{Gpu, Shader};

/// All shaders: those of the ops, the batches, the optimizers, the interventions and the instruments.
pub(crate) fn registry() -> Vec<&'static Shader<'static>> {
    [
        crate::autograd::ops::shaders(),
        crate::task::sampler_shaders(),
        crate::train::optimizer_shaders(),
        crate::intervene::shaders(),
        crate::instrument::shaders(),
    ]
    .concat()
}

/// Whether a shader is one of the crate's, which tests run bounds-checked.
pub(crate) fn is_own(shader: &Shader<'_>) -> bool {
    static OWN: OnceLock<HashSet<usize>> = OnceLock::new();
    let place = |shader: &Shader<'_>| std::ptr::from_ref(shader).addr();
    // No other shader is where a static one is.
    OWN.get_or_init(|| registry().into_iter().map(place).collect()).contains(&place(shader))
}

/// Runs every op of models, optimizers, interventions and instruments on a device and compares with its f64 reference.
///
/// # Errors
/// Where a kernel does not compile or the device fails.
pub fn self_check(gpu: &Gpu) -> Result<Vec<Checked>> {
    crate::autograd::check::self_check(
        gpu,
        &[vec![crate::train::CHECKS], crate::intervene::checks(), crate::instrument::checks()].concat(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::gpu::assemble;

    fn parse(shader: &Shader<'_>, knobs: &[u32]) -> (naga::Module, naga::valid::ModuleInfo) {
        let text = assemble(shader, knobs).unwrap();
        let module = naga::front::wgsl::parse_str(&text)
            .unwrap_or_else(|e| panic!("{}: {}", shader.label(knobs), e.emit_to_string(&text)));
        let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .unwrap_or_else(|e| panic!("{}: {}", shader.label(knobs), e.emit_to_string(&text)));
        (module, info)
    }

    /// Sizes of variants differ in numbers only; those that are written out have each knob at each value once.
    fn spread(shader: &Shader<'_>) -> Vec<Vec<u32>> {
        let most = shader.knobs.iter().map(|k| k.values.len()).max().unwrap_or(1);
        (0..most).map(|at| shader.knobs.iter().map(|k| k.values[at % k.values.len()]).collect()).collect()
    }

    /// Variants of a kernel that are worth a check each: all of them, or where they are thousands, so many that any
    /// two values of two knobs stand together in one at least.
    fn covering(shader: &Shader<'_>) -> Vec<Vec<u32>> {
        let all: usize = shader.knobs.iter().map(|knob| knob.values.len()).product();
        if all <= 512 {
            return shader.variants();
        }
        let mut missing: std::collections::BTreeSet<[(usize, u32); 2]> = std::collections::BTreeSet::new();
        for (a, knob) in shader.knobs.iter().enumerate() {
            for (b, other) in shader.knobs.iter().enumerate().skip(a + 1) {
                let pairs = knob.values.iter().flat_map(|v| other.values.iter().map(move |w| [(a, *v), (b, *w)]));
                missing.extend(pairs);
            }
        }
        let mut found = Vec::new();
        while let Some(pair) = missing.first().copied() {
            // The pair itself; of every other knob the value that completes most pairs with those chosen so far.
            let mut chosen: Vec<(usize, u32)> = pair.to_vec();
            for (at, knob) in shader.knobs.iter().enumerate() {
                if chosen.iter().any(|(other, _)| *other == at) {
                    continue;
                }
                let completes = |value: u32| {
                    let together = |&(other, w): &(usize, u32)| {
                        missing.contains(&if other < at {
                            [(other, w), (at, value)]
                        } else {
                            [(at, value), (other, w)]
                        })
                    };
                    chosen.iter().filter(|pair| together(pair)).count()
                };
                let best = knob.values.iter().copied().max_by_key(|value| completes(*value));
                chosen.extend(best.map(|value| (at, value)));
            }
            chosen.sort_unstable();
            for (a, first) in chosen.iter().enumerate() {
                for second in &chosen[a + 1..] {
                    missing.remove(&[*first, *second]);
                }
            }
            found.push(chosen.into_iter().map(|(_, value)| value).collect());
        }
        found
    }

    #[test]
    fn every_variant_is_valid() {
        for shader in registry() {
            for knobs in covering(shader) {
                parse(shader, &knobs);
            }
        }
    }

    #[test]
    fn every_kernel_is_written_for_vulkan_metal_and_directx() {
        for shader in registry() {
            for knobs in spread(shader) {
                let (module, info) = parse(shader, &knobs);
                let label = shader.label(&knobs);
                naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None)
                    .unwrap_or_else(|e| panic!("SPIR-V of {label}: {e}"));
                let options = naga::back::msl::Options {
                    lang_version: (2, 4),
                    fake_missing_bindings: true,
                    ..Default::default()
                };
                naga::back::msl::write_string(&module, &info, &options, &naga::back::msl::PipelineOptions::default())
                    .unwrap_or_else(|e| panic!("MSL of {label}: {e}"));
                // DirectX has no cooperative matrices; adapters there offer none.
                if shader.source.contains("enable wgpu_cooperative_matrix;") {
                    continue;
                }
                let options = naga::back::hlsl::Options {
                    shader_model: naga::back::hlsl::ShaderModel::V6_0,
                    fake_missing_bindings: true,
                    ..Default::default()
                };
                let pipeline = naga::back::hlsl::PipelineOptions::default();
                let mut text = String::new();
                naga::back::hlsl::Writer::new(&mut text, &options, &pipeline)
                    .write(&module, &info, None)
                    .unwrap_or_else(|e| panic!("HLSL of {label}: {e}"));
            }
        }
    }

    #[test]
    fn every_file_has_a_header_and_is_registered_once() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        let mut files = BTreeSet::new();
        let mut folders = vec![folder.clone()];
        while let Some(dir) = folders.pop() {
            for file in std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
                if file.is_dir() {
                    folders.push(file);
                    continue;
                }
                let stem = file.file_stem().unwrap().to_str().unwrap().to_owned();
                let text = std::fs::read_to_string(&file).unwrap();
                assert!(
                    text.starts_with(&format!("// {stem}: ")),
                    "{} begins with its name and formula",
                    file.display()
                );
                if !dir.ends_with("shared") {
                    assert!(
                        text.contains("// shapes ") && text.contains("// grid "),
                        "{} tells shapes and grid",
                        file.display()
                    );
                    files.insert(format!("{}/{stem}", dir.strip_prefix(&folder).unwrap().display()));
                }
            }
        }
        let registered: Vec<String> = registry().iter().map(|s| s.name.to_owned()).collect();
        let set: BTreeSet<String> = registered.iter().cloned().collect();
        assert_eq!(set.len(), registered.len(), "a shader is registered twice");
        assert_eq!(set, files);
    }

    /// Names in an expression, without members.
    fn names(expression: &str) -> Vec<&str> {
        let mut found = Vec::new();
        let mut member = false;
        for word in expression.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_') {
            let name = word.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '_');
            if !name.is_empty() && !member && !name.starts_with(|c: char| c.is_ascii_digit()) {
                found.push(name);
            }
            member = word.ends_with('.');
        }
        found
    }

    #[test]
    fn barriers_stand_in_uniform_control_flow() {
        // naga does not check it. A barrier may not follow a return that some invocations take, nor stand in
        // a branch or loop that some take more often. Parameters, the workgroup's place and constants are the
        // same for all invocations, and so is what is computed from them alone.
        let barriers = [
            "Barrier()",
            "workgroup_sum(",
            "workgroup_sums(",
            "workgroup_max(",
            "workgroup_min(",
            "row_sum(",
            "row_max(",
            "logit_statistics(",
            "sum_of_shares(",
        ];
        let mut seen = 0;
        for shader in registry() {
            let mut uniform: BTreeSet<&str> = [
                "params", "wid", "groups", "u32", "f32", "min", "max", "select", "var", "let", "true", "false",
                "row0_of", "head_of",
            ]
            .into();
            let mut branches: Vec<bool> = Vec::new();
            let mut returned = false;
            for (number, line) in shader.source.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let same = |uniform: &BTreeSet<&str>, expression: &str| {
                    names(expression).iter().all(|name| uniform.contains(name) || !name.contains(char::is_lowercase))
                };
                let mut divergent = false;
                if let Some((_, condition)) = code.split_once("if (") {
                    let condition = condition.split_once('{').map_or(condition, |(condition, _)| condition);
                    divergent = !same(&uniform, condition);
                } else if let Some((_, head)) = code.split_once("for (var ") {
                    let parts: Vec<&str> = head.splitn(3, ';').collect();
                    let (name, first) = parts[0].split_once('=').unwrap_or((parts[0], ""));
                    if same(&uniform, first) {
                        uniform.insert(name.trim());
                    }
                    divergent = !parts.get(1).is_some_and(|condition| same(&uniform, condition));
                } else if let Some((name, value)) =
                    code.trim().strip_prefix("let ").and_then(|rest| rest.split_once(" = "))
                {
                    if same(&uniform, value) {
                        uniform.insert(name);
                    } else {
                        uniform.remove(name);
                    }
                }
                returned |= divergent && code.contains("return");
                if barriers.iter().any(|call| code.contains(call)) && !code.trim_start().starts_with("fn ") {
                    seen += 1;
                    let place = format!("shaders/{}.wgsl:{}", shader.name, number + 1);
                    assert!(!returned, "{place}: a barrier behind a return that some invocations take");
                    assert!(!branches.contains(&true), "{place}: a barrier in a branch that some invocations take");
                }
                for character in code.chars() {
                    match character {
                        '{' => branches.push(divergent),
                        '}' => drop(branches.pop()),
                        _ => {}
                    }
                }
                if code.starts_with('}') {
                    returned = false;
                }
            }
        }
        assert!(seen > 40, "{seen} barriers were looked at");
    }

    #[test]
    fn rows_beyond_the_last_do_no_work() {
        let kernels: Vec<&Shader<'_>> =
            registry().into_iter().filter(|shader| shader.source.contains("#import rows")).collect();
        assert!(kernels.len() > 10, "{} kernels go by rows", kernels.len());
        for shader in kernels {
            let from_row_lane = shader.source.contains("let lane = row_lane(at, ");
            assert!(
                from_row_lane && !shader.source.contains("at.lane"),
                "{} begins a row where `row_lane` says",
                shader.name
            );
        }
    }

    #[test]
    fn names_are_those_of_variables() {
        assert_eq!(names("wid.y * 64u + lid < params.rows[i]"), ["wid", "lid", "params", "i"]);
    }
}
