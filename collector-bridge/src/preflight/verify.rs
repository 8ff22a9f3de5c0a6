//! Loads the programs and verifies that they run: an attached program is not always run by the kernel.

use super::{
    canary,
    facts::{Canary, CaptureFacts, Facts},
    verdict::{Verdict, judge},
};
use crate::bpf::{self, CaptureMode, LoadError, LoadSettings, Programs, Tier, offsets};

/// Loads the programs, probes them with a canary whose sample must arrive, and adds the results to the facts.
/// For `acceptd check`, where the programs record the agent's own accepts.
///
/// # Errors
/// See [`LoadError`].
pub(crate) fn load_and_probe(facts: &mut Facts, settings: &LoadSettings) -> Result<Programs, LoadError> {
    load_verified(facts, settings, canary::probe)
}

/// Like [`load_and_probe`], but the canary must only be counted. For `acceptd run`, whose ring the drain
/// thread reads.
///
/// # Errors
/// See [`LoadError`].
pub(crate) fn load_and_probe_counters(
    facts: &mut Facts,
    settings: &LoadSettings,
) -> Result<Programs, LoadError> {
    load_verified(facts, settings, |programs| canary::probe_counters(programs))
}

/// Falls back from tier 1 to tier 2 if the programs of tier 1 do not run and the configuration allows both. A
/// kernel can attach programs to functions and never run them (`/proc/sys/kernel/ftrace_enabled` is 0).
fn load_verified(
    facts: &mut Facts,
    settings: &LoadSettings,
    probe: impl Fn(&mut Programs) -> Canary,
) -> Result<Programs, LoadError> {
    let offsets = offsets::resolve(&facts.btf.path)?;
    let mut programs = bpf::load(settings, &offsets)?;
    let canary = probe(&mut programs);
    note(facts, &programs.capture, canary);
    if settings.tier.is_none()
        && programs.capture.tier == Tier::One
        && let Some(because) = canary_failure(facts)
    {
        drop(programs);
        programs = bpf::load(&LoadSettings { tier: Some(Tier::Two), ..settings.clone() }, &offsets)?;
        programs.capture.because = Some(because);
        let canary = probe(&mut programs);
        note(facts, &programs.capture, canary);
    }
    Ok(programs)
}

fn note(facts: &mut Facts, capture: &CaptureMode, canary: Canary) {
    let CaptureMode { tier, because, .. } = capture.clone();
    facts.capture = Some(CaptureFacts { tier, because });
    facts.canary = Some(canary);
}

/// Why the programs are unusable although they are attached; `None` if the canary did not fail.
fn canary_failure(facts: &Facts) -> Option<String> {
    let canary = judge(facts).into_iter().find(|item| item.id == "canary")?;
    (canary.verdict == Verdict::Failed).then_some(format!("{}; {}", canary.because, canary.remedy))
}
