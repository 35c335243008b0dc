//! Lines and sets as one: what is read, what is kept from before, and what is refused.

use super::*;

const AT: UnixMillis = UnixMillis(1_637_736_569_123);

fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    keyfile::create_dirs(dir.path()).unwrap();
    dir
}

fn load(dir: &Path) -> Revocations {
    Revocations::load(dir, None).unwrap()
}

#[test]
fn what_is_appended_is_read_and_a_torn_tail_is_not() {
    let dir = data_dir();
    let path = keyfile::revoked_path(dir.path());
    assert!(load(dir.path()).cti(&[7; 16]).is_none());
    append(dir.path(), &Revocation::Cti([7; 16]), AT).unwrap();
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(br#"{"kind":"kid","va"#);
    fs::write(&path, &torn).unwrap();
    assert_eq!(load(dir.path()).cti(&[7; 16]), Some(AT.seconds()));
    append(dir.path(), &Revocation::Device(App::Vneid, "gate/1".to_owned()), AT).unwrap();
    append(dir.path(), &Revocation::Kid("k1".to_owned()), AT).unwrap();
    append(dir.path(), &Revocation::Dcc([9; 16]), AT).unwrap();
    let revoked = load(dir.path());
    assert!(revoked.device(App::Vneid, "gate/1").is_some());
    assert!(revoked.device(App::PcCovid, "gate/1").is_none());
    assert!(revoked.kid("k1").is_some() && revoked.dcc(&[9; 16]).is_some());
    assert!(revoked.dcc(&[7; 16]).is_none(), "kinds are apart");
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
}

#[test]
fn a_damaged_line_in_the_middle_is_an_error_with_its_number() {
    let dir = data_dir();
    let good = r#"{"kind":"kid","value":"k","at":"2021-11-24T06:49:29Z"}"#;
    for bad in [
        "{",
        r#"{"kind":"cti","value":"00","at":"2021-11-24T06:49:29Z"}"#,
        r#"{"kind":"name"}"#,
        r#"{"kind":"kid","value":"k"}"#,
    ] {
        fs::write(keyfile::revoked_path(dir.path()), format!("{good}\n{bad}\n{good}\n")).unwrap();
        let error = Revocations::load(dir.path(), None).err();
        assert!(matches!(error, Some(KeysError::Revocation { line: 2, .. })), "{bad}: {error:?}");
    }
}

#[test]
fn a_later_revocation_of_a_cti_wins_and_the_first_of_a_device() {
    let dir = data_dir();
    for at in [AT, UnixMillis(AT.0 + 5_000), UnixMillis(AT.0 - 5_000)] {
        append(dir.path(), &Revocation::Cti([7; 16]), at).unwrap();
        append(dir.path(), &Revocation::DeviceHash([7; 16]), at).unwrap();
    }
    let revoked = load(dir.path());
    assert_eq!(revoked.cti(&[7; 16]), Some(AT.seconds() + 5));
    assert_eq!(revoked.find(Kind::Device, &[7; 16]).unwrap(), Some(AT.seconds() - 5));
}

#[test]
fn unchanged_files_are_kept_and_changed_ones_are_read() {
    let dir = data_dir();
    append(dir.path(), &Revocation::Cti([7; 16]), AT).unwrap();
    bulk::compact(dir.path()).unwrap();
    append(dir.path(), &Revocation::Cti([8; 16]), AT).unwrap();
    let first = load(dir.path());
    let second = Revocations::load(dir.path(), Some(&first)).unwrap();
    assert!(Arc::ptr_eq(&first.recent, &second.recent) && Arc::ptr_eq(&first.sets[0], &second.sets[0]));
    append(dir.path(), &Revocation::Cti([9; 16]), AT).unwrap();
    let third = Revocations::load(dir.path(), Some(&second)).unwrap();
    assert!(!Arc::ptr_eq(&second.recent, &third.recent) && Arc::ptr_eq(&second.sets[0], &third.sets[0]));
    assert!(third.cti(&[7; 16]).is_some() && third.cti(&[9; 16]).is_some());
}

#[test]
fn a_damaged_set_is_refused_and_so_is_one_cut_short_while_it_is_used() {
    let dir = data_dir();
    append(dir.path(), &Revocation::Cti([7; 16]), AT).unwrap();
    bulk::compact(dir.path()).unwrap();
    let before = load(dir.path());
    let path = before.sets[0].path.clone();
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[20] ^= 1;
    fs::write(&path, &bad).unwrap();
    assert!(matches!(Revocations::load(dir.path(), None), Err(KeysError::RevokedSet { .. })));
    assert!(Revocations::load(dir.path(), Some(&before)).is_err());
    // The disk fails under a set that was sound: the code must not pass for valid.
    fs::write(&path, b"").unwrap();
    assert!(before.cti(&[7; 16]).is_some());
}

#[test]
fn appends_beside_a_compaction_are_kept() {
    let dir = data_dir();
    std::thread::scope(|scope| {
        for thread in 0..3_u8 {
            let dir = dir.path();
            scope.spawn(move || {
                for number in 0..20 {
                    append(dir, &Revocation::Cti([thread * 20 + number + 1; 16]), AT).unwrap();
                }
            });
        }
        for _ in 0..8 {
            bulk::compact(dir.path()).unwrap();
        }
    });
    let revoked = load(dir.path());
    assert!((1..=60).all(|byte| revoked.cti(&[byte; 16]).is_some()));
    let counted = revoked.counted();
    assert_eq!(counted[0].recent + counted[0].in_sets, 60);
}

#[test]
fn the_lines_have_a_bound() {
    let dir = data_dir();
    let path = keyfile::revoked_path(dir.path());
    File::create(&path).unwrap().set_len(lines::FILE_BYTES_MAX).unwrap();
    // One torn line of zeros is cut off; whole ones would be counted.
    append(dir.path(), &Revocation::Cti([7; 16]), AT).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(lines::FILE_BYTES_MAX - 1).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"\n", lines::FILE_BYTES_MAX - 2).unwrap();
    let error = append(dir.path(), &Revocation::Cti([8; 16]), AT).err();
    assert!(matches!(error, Some(KeysError::RevokedFull { .. })), "{error:?}");
}
