//! What the image must know of a program: for which machine it is, and whether it needs a loader and libraries.

use anyhow::{Context, Result, bail, ensure};

/// Program header of the loader's name (elf(5), `PT_INTERP`).
const INTERPRETER: u32 = 3;

/// The machine in the words of OCI images.
pub(crate) fn architecture(program: &[u8]) -> Result<&'static str> {
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF program");
    match half(program, 18)? {
        62 => Ok("amd64"),
        183 => Ok("arm64"),
        other => bail!("a program for machine {other}, for which there is no image"),
    }
}

/// Whether another program has to load this one, with libraries of its own choice.
pub(crate) fn wants_interpreter(program: &[u8]) -> Result<bool> {
    let table = usize::try_from(long(program, 32)?)?;
    let (size, count) = (usize::from(half(program, 54)?), usize::from(half(program, 56)?));
    let kinds = (0..count).map(|index| word(program, table + index * size));
    Ok(kinds.collect::<Result<Vec<_>>>()?.contains(&INTERPRETER))
}

fn half(program: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(program, at)?))
}

fn word(program: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(program, at)?))
}

fn long(program: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(program, at)?))
}

fn bytes<const N: usize>(program: &[u8], at: usize) -> Result<[u8; N]> {
    let found = program.get(at..at + N).context("the program ends in the middle of its headers")?;
    Ok(found.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::{architecture, wants_interpreter};

    /// A header with program headers of these kinds.
    fn program(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = u8::try_from(kinds.len()).expect("few");
        for kind in kinds {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn a_program_with_an_interpreter_is_told_from_one_without() {
        assert!(!wants_interpreter(&program(&[1, 2])).unwrap());
        assert!(wants_interpreter(&program(&[6, 3, 1])).unwrap());
    }

    /// Tests are linked dynamically.
    #[test]
    fn this_very_program_wants_one() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(wants_interpreter(&own).unwrap());
        assert!(["amd64", "arm64"].contains(&architecture(&own).unwrap()));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(architecture(b"#!/bin/sh\n").is_err());
        assert!(wants_interpreter(&program(&[1])[..70]).is_ok_and(|wants| !wants));
        assert!(wants_interpreter(&program(&[1, 3])[..110]).is_err());
    }
}
