//! One binary for all integration tests of this crate.

mod it {
    mod checked;
    mod input_access_log;
    mod input_blocks;
    mod input_conflicts;
    mod input_json;
    mod input_limits;
    mod input_real_data;
    mod input_support;
    mod input_types;
    mod storage;
}
