//! Secrets in texts that are about to be published: refused with file and line, never with the secret itself.
//!
//! Knows the shapes of the commonest tokens. Does not search binary files.

use crate::core::error::{Error, Result};
use regex::bytes::Regex;
use std::sync::LazyLock;

/// What is looked for, and what it is called.
static RULES: LazyLock<Vec<(&'static str, Option<Regex>)>> = LazyLock::new(|| {
    let rules = [
        ("a Hugging Face token", r"\b(hf_|api_org_)[A-Za-z0-9]{30,}\b"),
        ("a private key", r"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----"),
        ("an AWS access key", r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
        ("a GitHub token", r"\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b"),
        ("a Google API key", r"\bAIza[0-9A-Za-z_\-]{35}\b"),
        ("a Slack token", r"\bxox[abposr]-[0-9A-Za-z\-]{20,}\b"),
        ("an OpenAI key", r"\bsk-[A-Za-z0-9_\-]{32,}\b"),
        ("a PyPI token", r"\bpypi-[A-Za-z0-9_\-]{50,}\b"),
        ("a Weights & Biases key", r"(?i)wandb[a-z_]*key\W{1,4}[0-9a-f]{40}\b"),
    ];
    rules.into_iter().map(|(name, rule)| (name, Regex::new(rule).ok())).collect()
});

/// Refuses a text that holds a secret. Content with a NUL among its first bytes is binary and is not searched.
pub fn scan_text(path: &str, bytes: &[u8]) -> Result<()> {
    if bytes.iter().take(8192).any(|b| *b == 0) {
        return Ok(());
    }
    for (name, rule) in RULES.iter() {
        let Some(found) = rule.as_ref().and_then(|r| r.find(bytes)) else { continue };
        let line = 1 + bytes[..found.start()].iter().filter(|b| **b == b'\n').count();
        return Err(Error::stage(format!("`{path}` holds what looks like {name}, on line {line}"))
            .hint("take it out, and revoke it: it may have been published before"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_refused_by_file_and_line_and_never_shown() {
        let token = format!("hf_{}", "aB3".repeat(12));
        let text = format!("one\ntwo\nkey = \"{token}\"\n");
        let error = scan_text("notes.md", text.as_bytes()).unwrap_err();
        assert!(error.message().contains("`notes.md`") && error.message().contains("line 3"), "{error}");
        assert!(!format!("{error:?}").contains(&token));
        assert!(scan_text("notes.md", b"set HF_TOKEN to your token, hf_... in short").is_ok());
    }

    #[test]
    fn every_rule_is_a_regex() {
        assert!(RULES.iter().all(|(_, rule)| rule.is_some()));
    }
}
