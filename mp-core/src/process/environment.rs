//! Changing the environment of a process that has no second thread yet.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Differences between two environments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentChange {
    /// Variables to set, with their values.
    pub set: Vec<(OsString, OsString)>,
    /// Variables to remove.
    pub removed: Vec<OsString>,
}

impl EnvironmentChange {
    /// What turns `old` into `new`; both as [`std::env::vars_os`] lists them.
    pub fn between(old: &[(OsString, OsString)], new: &[(OsString, OsString)]) -> Self {
        // Nearly always nothing has changed, and the order is that of the system.
        if old == new {
            return EnvironmentChange::default();
        }
        let removed = old.iter().filter(|(name, _)| !new.iter().any(|(other, _)| other == name));
        let set = new.iter().filter(|pair| !old.contains(pair));
        EnvironmentChange {
            set: set.cloned().collect(),
            removed: removed.map(|(name, _)| name.clone()).collect(),
        }
    }

    /// Makes the change in this process.
    ///
    /// # Errors
    /// [`Error::Invalid`] when this process has other threads, which may be reading the environment, or when a name
    /// is empty or holds `=`, or a name or value holds a zero byte.
    pub fn apply(&self) -> Result<()> {
        if self.set.is_empty() && self.removed.is_empty() {
            return Ok(());
        }
        let invalid = |reason: String| Error::Invalid { what: "change of the environment", reason };
        let others = super::fork::other_threads()?;
        if !others.is_empty() {
            return Err(invalid(format!("other threads may be reading it: {}", others.join(", "))));
        }
        for name in &self.removed {
            check(name, "").map_err(invalid)?;
            // SAFETY: there is no other thread.
            unsafe { std::env::remove_var(name) };
        }
        for (name, value) in &self.set {
            check(name, value).map_err(invalid)?;
            // SAFETY: there is no other thread.
            unsafe { std::env::set_var(name, value) };
        }
        Ok(())
    }
}

/// What `std::env::set_var` would panic on.
fn check(name: &std::ffi::OsStr, value: impl AsRef<std::ffi::OsStr>) -> Result<(), String> {
    let (name_bytes, value) = (name.as_encoded_bytes(), value.as_ref());
    if name_bytes.is_empty() || name_bytes.iter().any(|byte| matches!(byte, b'=' | 0)) {
        return Err(format!("{name:?} cannot be the name of a variable"));
    }
    if value.as_encoded_bytes().contains(&0) {
        return Err(format!("the value of {name:?} holds a zero byte"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_what_differs() {
        let list = |pairs: &[(&str, &str)]| -> Vec<(OsString, OsString)> {
            pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
        };
        let (old, new) =
            (list(&[("A", "1"), ("B", "2"), ("C", "3")]), list(&[("C", "4"), ("A", "1"), ("D", "")]));
        let change = EnvironmentChange::between(&old, &new);
        assert_eq!(change.set, list(&[("C", "4"), ("D", "")]));
        assert_eq!(change.removed, ["B"]);
        assert_eq!(EnvironmentChange::between(&old, &old), EnvironmentChange::default());
    }

    #[test]
    fn names_that_no_variable_can_have_are_errors() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            assert!(check(name.as_ref(), value).is_err());
        }
    }
}
