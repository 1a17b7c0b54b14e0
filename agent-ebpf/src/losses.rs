//! Ways to lose something. A new one is one row here; its number is its place, which is also its slot in the map `LOSSES_OF`.

macro_rules! losses {
    ($($number:ident = $stage:literal: $meaning:literal,)+) => {
        /// Every way: the name of the stage, and what it means.
        pub const LOSSES: [(&str, &str); [$($stage),+].len()] = [$(($stage, $meaning)),+];

        /// Numbers them.
        #[repr(u32)]
        #[expect(non_camel_case_types, reason = "they are named as the constants that are made of them")]
        enum Place {
            $($number,)+
        }

        $(pub const $number: u32 = Place::$number as u32;)+
    };
}

losses! {
    LOSS_RING_FULL = "ring_full":
        "a fact found no room in the ring buffer; byte counts are not affected",
    LOSS_HOLDERS_FULL = "holders_full":
        "processes that found no room in HOLDERS; their bytes are counted together",
    LOSS_TAKES_FULL = "takes_full":
        "bytes taken that found no room in TAKES; they count for every asset that their holder touched",
    LOSS_FLOWS_FULL = "flows_full":
        "bytes put that found no room in FLOWS; they count as gone to a place that nobody listed",
    LOSS_OBJECTS_FULL = "objects_full":
        "protected files or carriers that found no room in OBJECTS; such a file counts as taken whole, and what goes into such a carrier as gone",
    LOSS_PROCESSES_FULL = "processes_full":
        "process identities that found no room in PROCESSES",
    LOSS_READ_FAILED = "read_failed":
        "a kernel structure could not be read",
    LOSS_WALK_TOO_DEEP = "walk_too_deep":
        "a path deeper than the walk; taken for protected where its filesystem is",
    LOSS_PATH_CUT = "path_cut":
        "a path longer than its buffer was cut",
    LOSS_DESCRIPTOR_GONE = "descriptor_gone":
        "a descriptor was closed before its call returned",
    LOSS_SPACES_FULL = "spaces_full":
        "processes that share memory with others and found no room in SPACES or SHARERS",
    LOSS_MEMORY_FULL = "memory_full":
        "processes whose shared memory found no room in MEMORY",
    LOSS_ACTS_FULL = "acts_full":
        "acts that found no room in ACTS, and users of GPUs that found none in GPU_USERS",
    LOSS_REACHED_FULL = "reached_full":
        "bytes that one process took out of another and that found no room in REACHED; they count for every asset that either held",
}
