"""Break the code on purpose, one place at a time, and see that the tests notice: `make mutants`.

Each mutant stands where a mistake would lose data or promote a wrong model. It is set into a copy of the working tree,
the tests that are named with it run there, and at least one of them must fail. A mutant that survives means that a test
is missing. One whose old text no longer stands exactly once in its file is to be brought up to date.

    python tools/mutants.py [--only WORD] [--jobs N] [--list]
"""

import argparse
import multiprocessing
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PASSED, FAILED = 0, 1
"""Exit codes of pytest: all tests passed; a test ran and failed. All others mean that they did not run."""
LIMIT_SECONDS = 900
PROCESSES = multiprocessing.get_context("forkserver")
HEAVY = ("boto3", "hypothesis.strategies", "pyarrow.parquet", "pytest", "scipy.sparse", "torch", "transformers")
"""Not the project's own: imported once, before any mutant is."""


@dataclass(frozen=True)
class Mutant:
    """A mistake, and who must notice it.

    Attributes:
        file: below the root.
        old: what stands there, exactly once.
        new: the mistake.
        tests: node ids of pytest, of which at least one must fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())[:70]!r} → {' '.join(self.new.split())[:70]!r}"


def _in(file: str, tests: str, *mistakes: tuple[str, str, str]) -> Iterator[Mutant]:
    """Mutants of one file: (old, new, names of tests in the file `tests`, or node ids, separated by blanks)."""
    for old, new, named in mistakes:
        yield Mutant(file, old, new, tuple(n if "::" in n else f"{tests}::{n}" for n in named.split()))


MUTANTS = (
    *_in(
        "cascadexml/registry/publication.py",
        "tests/integration/test_registry.py",
        (
            "        self._upload(entries, committed, progress)\n",
            "        store.put_if_absent(prefix + MANIFEST, self._data)\n"
            "        self._upload(entries, committed, progress)\n",
            "tests/integration/test_registry_faults.py"
            "::test_a_publisher_killed_at_any_request_leaves_nothing_that_a_reader_sees",
        ),
        (
            'return found is not None and found[1].get("sha256") == files[name]["sha256"]',
            "return found is not None",
            "test_a_publication_goes_on_where_it_stopped",
        ),
        (
            'raise ConflictError(f"{uri} holds another manifest: use another name for this model.")',
            "return True",
            "test_another_manifest_in_a_versions_place_is_not_taken_for_it",
        ),
        (
            "self._folder = open_artifact(folder).path",
            "self._folder = folder",
            "test_what_is_no_artifact_is_not_published",
        ),
    ),
    *_in(
        "cascadexml/registry/aliases.py",
        "tests/integration/test_registry.py",
        (
            "if expect is not ANY and current != expect:",
            "if expect is not ANY and expect and current != expect:",
            "test_moves_that_are_refused",
        ),
        (
            "self._store.replace_if(key, data, etag)\n        #",
            "(self._store.put(key, data), True)[1]\n        #",
            "test_sixteen_who_promote_at_once_lose_no_move",
        ),
        (
            "if not written and move.id not in {m.id for m in self._moves(name, alias)[0]}:",
            "if not written:",
            "tests/integration/test_registry_faults.py::test_a_roll_back_whose_answer_is_lost_is_made_once_and_told",
        ),
        (
            "        self._versions.check_whole(name, version)\n",
            "",
            "test_moves_that_are_refused",
        ),
        (
            "        self._versions.check_whole(name, target)\n",
            "",
            "test_a_roll_back_goes_only_to_a_whole_version",
        ),
        (
            "return held[-2] if len(held) > 1 else None",
            "return held[0] if len(held) > 1 else None",
            "tests/registry/test_registry.py::test_rolling_back_undoes_promotions_in_reverse",
        ),
        (
            'and document["target"] == moves[-1].target\n',
            "\n",
            "tests/integration/test_registry_damage.py::test_a_damaged_alias_is_refused_and_not_overwritten",
        ),
    ),
    *_in(
        "cascadexml/registry/collect.py",
        "tests/integration/test_registry.py",
        (
            " | {back for m in moves if (back := roll_back_target(m)) is not None}",
            "",
            "test_gc_removes_what_nobody_needs_and_nothing_else",
        ),
        (
            "{version.version for version in old if version.created <= limit}",
            "{version.version for version in old}",
            "test_gc_removes_what_nobody_needs_and_nothing_else",
        ),
        (
            "complete[: max(0, len(complete) - keep)]",
            "complete[: max(0, len(complete) - keep + 1)]",
            "test_gc_keeps_as_many_versions_as_asked",
        ),
        (
            "        if version in self._needed(name):\n",
            "        if False:\n",
            "test_gc_and_a_promotion_leave_no_alias_that_leads_nowhere",
        ),
        (
            "if limit is not None and any(entry.modified > limit for entry in entries.values()):",
            "if False:",
            "tests/integration/test_registry_faults.py::test_gc_spares_what_a_publisher_takes_up_while_it_is_swept",
        ),
    ),
    *_in(
        "cascadexml/registry/versions.py",
        "tests/integration/test_registry_damage.py",
        (
            "if manifest.version != version:",
            "if False:",
            "test_an_edited_manifest_is_refused_before_anything_is_fetched",
        ),
        (
            "            signing.verify(blob.data, signature, self._place.verify_key, where)\n",
            "            pass\n",
            "tests/integration/test_registry.py::test_what_is_not_signed_is_refused_where_signatures_are_asked_for",
        ),
        (
            "        check_listing(manifest, entries, self._store.uri(prefix))\n",
            "",
            "test_a_file_that_is_gone_is_refused_by_name",
        ),
    ),
    *_in(
        "cascadexml/registry/cache.py",
        "tests/integration/test_registry.py",
        (
            "            found = ARTIFACT.read(path)\n",
            "            found = ARTIFACT.read(path, digests=False)\n",
            "test_a_damaged_cache_is_fetched_again",
        ),
        (
            "    if resumed <= entry.size:\n        store.download(entry, target, tell, stop)\n"
            '        if stop.is_set() or bundle.sha256_of(target) == wanted["sha256"]:\n',
            "    if resumed <= entry.size:\n        store.download(entry, target, tell, stop)\n        if True:\n",
            "test_half_a_file_of_other_content_is_not_built_upon",
        ),
    ),
    *_in(
        "flows/local/reports.py",
        "tests/flows/test_reports.py",
        (
            "path = Path(self.translate_path(self.path)).resolve()",
            "path = Path(self.translate_path(self.path))",
            "test_what_lies_elsewhere_is_not",
        ),
    ),
    *_in(
        "cascadexml/data/readers/records.py",
        "tests/data/readers/test_readers.py",
        (
            'return f"{name}{_APART}" if bare in',
            'return f"{name}{_APART}" if name in',
            "test_metadata_that_are_called_as_columns_of_records_stay_apart",
        ),
    ),
    *_in(
        "cascadexml/registry/checking.py",
        "tests/registry/test_checking.py",
        (
            "    if winners == {final}:\n",
            "    if final in winners:\n",
            "test_the_promise_that_a_store_breaks_is_named",
        ),
    ),
    *_in(
        "cascadexml/registry/records.py",
        "tests/integration/test_registry.py",
        (
            "            if path == RECORD or self._store.head(prefix + RECORD) is not None:\n",
            "            if False:\n",
            "test_records_are_whole_immutable_and_in_order",
        ),
    ),
    *_in(
        "cascadexml/registry/manifest.py",
        "tests/registry/test_registry.py",
        (
            '        and ".." not in path.parts\n',
            "",
            "test_a_manifest_that_leads_astray_is_refused",
        ),
        (
            'if entries[name].size != entry["size"]:',
            "if False:",
            "test_a_listing_is_compared_with_the_manifest",
        ),
    ),
    *_in(
        "flows/tasks.py",
        "tests/integration/test_settle.py",
        (
            'promoted = promote == "always" or (promote == "if_better" and judgement.promote)',
            "promoted = True",
            "test_the_alias_moves_only_where_judgement_and_setting_say_so",
        ),
        (
            'promoted = promote == "always" or (promote == "if_better" and judgement.promote)',
            'promoted = promote != "never"',
            "test_the_alias_moves_only_where_judgement_and_setting_say_so",
        ),
        (
            'promoted = promote == "always" or (promote == "if_better" and judgement.promote)',
            'promoted = promote == "if_better" and judgement.promote',
            "test_the_alias_moves_only_where_judgement_and_setting_say_so",
        ),
        (
            "by=whoami(), expect=against)",
            "by=whoami())",
            "test_a_champion_that_was_not_judged_against_is_not_replaced",
        ),
        (
            "        whole = False\n",
            "        whole = True\n",
            "tests/flows/test_tasks.py::test_a_torn_lock_becomes_the_last_whole_one",
        ),
    ),
    *_in(
        "flows/challengers.py",
        "tests/flows/test_challengers.py",
        (
            'return (*warm, "train.epochs=0") if start == "refit" else warm',
            'return ("train.epochs=0", *warm) if start == "refit" else warm',
            "test_a_refit_takes_the_champions_network_and_trains_no_step",
        ),
        (
            "    if attempts == 1:\n",
            "    if attempts:\n",
            "test_two_looks_share_the_doubt_of_one",
        ),
        (
            "left = [plan for plan in plans if plan.key not in tried]",
            "left = [] if plans[0].key in tried else list(plans)",
            "test_a_retraining_that_broke_off_after_the_refit_goes_on_with_the_warm_start",
        ),
        (
            '            if first.challenger == "refit":\n',
            "            if first:\n",
            "test_after_a_refit_that_won_the_network_trains_only_for_who_asks",
        ),
    ),
    *_in(
        "flows/retraining.py",
        "tests/flows/test_retraining.py",
        (
            "        if tried[-1].outcome.serves:\n",
            "        if False:\n",
            "test_a_refit_that_wins_spares_the_network_its_training",
        ),
        (
            "        note(folder, tried[-1])\n",
            "",
            "test_a_refit_that_is_no_better_is_noted_before_the_network_trains",
        ),
    ),
    *_in(
        "cascadexml/evaluation/judge.py",
        "tests/evaluation/test_judgement.py",
        (
            "better = lower > settings.margin",
            "better = main.difference > settings.margin",
            "test_the_margin_must_be_passed_by_the_lower_bound",
        ),
        (
            "promote=better and not any(each.failed for each in guards + parts),",
            "promote=better and not any(each.failed for each in guards),",
            "test_a_slice_that_falls_is_named_and_refuses",
        ),
        (
            "promote=better and not any(each.failed for each in guards + parts),",
            "promote=better and not any(each.failed for each in parts),",
            "test_a_tail_that_falls_refuses",
        ),
        (
            "if found.difference < -max_fall:",
            "if found.difference > max_fall:",
            "test_a_large_fall_refuses_even_where_it_may_be_chance",
        ),
        (
            "if found.high < 0:",
            "if False:",
            "test_a_small_but_sure_fall_refuses_and_a_small_unsure_one_does_not",
        ),
        (
            "100 * (1 - settings.confidence)",
            "50",
            "test_more_confidence_asks_for_more",
        ),
        (
            "Ratio(a.numerator - b.numerator, a.denominator)",
            "Ratio(b.numerator - a.numerator, a.denominator)",
            "test_a_clearly_better_challenger_is_promoted_and_a_worse_one_is_not",
        ),
        (
            "np.int32(NO_LABEL))\n    return",
            "np.int32(0))\n    return",
            "test_a_translated_ranking_scores_as_in_its_own_rows "
            "test_labels_that_only_one_vocabulary_has_count_as_wrong_and_as_missed",
        ),
    ),
    *_in(
        "cascadexml/evaluation/judgement.py",
        "tests/evaluation/test_judgement.py",
        (
            'promote=content["promote"],',
            "promote=True,",
            "test_promotion_means_all_that_it_promises",
        ),
    ),
    *_in(
        "cascadexml/evaluation/calibration.py",
        "tests/evaluation/test_calibration.py",
        (
            "right[candidates], positives=Y.nnz)",
            "right[candidates], positives=int(right[candidates].sum()))",
            "test_labels_outside_the_candidates_count_as_missed",
        ),
        (
            "if min(slope, slope + bend) <= 0:",
            "if slope <= 0:",
            "test_other_content_is_refused",
        ),
        (
            "first = candidates & (np.arange(ranking.shape[1]) < places)",
            "first = candidates",
            "test_candidates_behind_the_first_places_do_not_blur_the_first",
        ),
        (
            "(right + 1) / (right + 2), 1 / (wrong + 2)",
            "1.0, 0.0",
            "test_the_fit_equals_logistic_regression",
        ),
    ),
    *_in(
        "cascadexml/serving/predictor.py",
        "tests/serving/test_predictor.py",
        (
            "max(K, self.calibration.places)",
            "K",
            "test_probabilities_are_the_same_whatever_is_asked_for",
        ),
        (
            "probability >= least[row]",
            "probability >= least.min()",
            "test_thresholds_by_label_leave_out_what_does_not_reach_its_band",
        ),
    ),
    *_in(
        "cascadexml/evaluation/thresholds.py",
        "tests/evaluation/test_thresholds.py",
        (
            "falling[:-2] > falling[1:-1]",
            "falling[:-2] >= falling[1:-1]",
            "test_equal_probabilities_are_taken_together_or_not_at_all",
        ),
        (
            " & (cuts.taken >= LEAST_GIVEN)",
            "",
            "test_a_few_lucky_candidates_reach_no_precision",
        ),
        (
            "(positives > 0).sum() + given_in_vain",
            "(positives > 0).sum()",
            "test_labels_that_are_never_true_are_not_worth_one_poor_hit",
        ),
    ),
    *_in(
        "cascadexml/evaluation/choices.py",
        "tests/evaluation/test_choices.py",
        (
            "if precision >= wanted",
            "if precision > wanted - 0.05",
            "test_a_precision_between_two_takes_the_threshold_of_the_higher_one",
        ),
        (
            'np.select([bins["head"], bins["torso"]], [0, 1], 2)',
            'np.select([bins["head"], bins["torso"]], [1, 0], 2)',
            "test_each_band_is_chosen_for_by_itself",
        ),
    ),
    *_in(
        "cascadexml/training/checkpoint.py",
        "tests/training/test_fit.py",
        (
            'if meta.get("run") != run:',
            "if False:",
            "test_a_checkpoint_of_another_run_is_refused_by_name",
        ),
        (
            "        optimizer.load_state(state)\n",
            "        dict(state)\n",
            "test_an_interrupted_run_goes_on_to_the_same_bits",
        ),
        (
            "    if written != shares:",
            "    if False:",
            "tests/integration/test_sharded_training.py"
            "::test_a_checkpoint_of_another_number_of_processes_is_refused_in_one_sentence",
        ),
        (
            '            state |= load_file(path / part_name("optimizer", group.rank))\n',
            "",
            "tests/integration/test_sharded_training.py::test_killed_again_and_again_a_group_ends_with_the_same_bits",
        ),
    ),
    *_in(
        "cascadexml/training/optimisers.py",
        "tests/training/test_fit.py",
        (
            "                of_heads.pop(name).copy_(value)",
            "                of_heads.pop(name)",
            "test_an_interrupted_run_goes_on_to_the_same_bits",
        ),
    ),
    *_in(
        "cascadexml/rankers/cascade/lean_head.py",
        "tests/rankers/cascade/test_lean_head.py",
        (
            "residuals.sign() * least, residuals)",
            "residuals, residuals)",
            "test_thinned_residuals_teach_the_same_in_the_mean",
        ),
        (
            "kept.append((of, slots[places], values))",
            "kept.append((of, places, values))",
            "test_learning_from_all_slots_is_that_of_a_dense_head",
        ),
        (
            "    bits.add_(noise[slots % noise.shape[0]])\n",
            "",
            "test_what_is_stored_in_16_bits_is_right_in_the_mean",
        ),
        (
            "noise[slots % noise.shape[0]]",
            "noise[torch.arange(len(slots)) % noise.shape[0]]",
            "tests/rankers/cascade/test_sharded_head.py"
            "::test_a_rows_noise_goes_by_its_slot_and_not_by_what_is_rounded_with_it",
        ),
        (
            "documents = together(own.documents) + starts",
            "documents = together(own.documents)",
            "test_processes_share_documents_and_residuals",
        ),
        (
            "            self.scale.div_(HALF)\n",
            "",
            "test_decay_alone_goes_on_exactly_for_ever",
        ),
    ),
    *_in(
        "cascadexml/rankers/cascade/sharded_head.py",
        "tests/rankers/cascade/test_sharded_head.py",
        (
            "torch.stack([documents + before, slots], dim=1)",
            "torch.stack([documents, slots], dim=1)",
            "test_shares_score_and_learn_as_a_plain_computation_of_all_rows",
        ),
        (
            "return back[before : before + h.shape[0]]",
            "return back[: h.shape[0]]",
            "test_shares_score_and_learn_as_a_plain_computation_of_all_rows",
        ),
        (
            "return self.peers.sum(super().gradient_square())",
            "return super().gradient_square()",
            "test_shares_score_and_learn_as_a_plain_computation_of_all_rows",
        ),
        (
            "(P * rank // peers.size for rank in",
            "(P // peers.size * rank for rank in",
            "test_shares_score_and_learn_as_a_plain_computation_of_all_rows",
        ),
    ),
    *_in(
        "cascadexml/rankers/cascade/centroids.py",
        "tests/rankers/cascade/test_centroids.py",
        (
            "if self.pairs >= BLOCK:",
            "if True:",
            "test_rows_in_16_bits_lose_no_more_by_many_documents_than_by_being_kept",
        ),
    ),
    *_in(
        "cascadexml/evaluation/held_out.py",
        "tests/monitoring/test_reference.py",
        (
            "    if kept != asdict(provenance) or split",
            "    if split",
            "test_a_ranking_is_taken_only_as_that_of_its_ranker_records_and_width",
        ),
    ),
    *_in(
        "cascadexml/training/selection.py",
        "tests/training/test_fit.py",
        (
            "better = position.best is None or value > position.best",
            "better = True",
            "test_the_best_weights_are_kept_and_not_the_last",
        ),
        (
            "stale >= settings.patience",
            "stale > settings.patience",
            "test_training_stops_early_when_dev_gains_nothing",
        ),
        (
            "inverse_propensities(train.Y, run.propensity_a, run.propensity_b)",
            "inverse_propensities(train.Y, 0.55, 1.5)",
            "test_dev_is_measured_with_the_propensities_that_the_settings_give",
        ),
    ),
    *_in(
        "cascadexml/training/fit.py",
        "tests/training/test_fit.py",
        (
            "            for step, figures in curves:\n",
            "            position = dataclasses.replace(position, step=0)\n            for step, figures in curves:\n",
            "test_an_interrupted_run_goes_on_to_the_same_bits",
        ),
        (
            "seed=self.run.seed, epoch=epoch)[place:]",
            "seed=self.run.seed, epoch=epoch)[:]",
            "test_an_interrupted_run_goes_on_to_the_same_bits",
        ),
        (
            "        if self.network.shared and not self.run.selects:",
            "        if False:",
            "tests/integration/test_sharded_training.py"
            "::test_without_dev_the_last_weights_of_all_processes_are_saved",
        ),
    ),
    *_in(
        "cascadexml/training/step.py",
        "tests/training/test_fit.py",
        (
            "torch.manual_seed((self.run.seed * MICRO_BATCHES_LIMIT + step) * MICRO_BATCHES_LIMIT % 2**62 + micro)",
            "pass",
            "test_an_interrupted_run_goes_on_to_the_same_bits",
        ),
    ),
    *_in(
        "cascadexml/training/run.py",
        "tests/rankers/cascade/test_warm_start.py",
        (
            '"base": self.base and MODEL_FORMAT.read(self.base, digests=False).fingerprint,',
            '"base": None,',
            "test_another_base_is_another_run",
        ),
    ),
    *_in(
        "cascadexml/rankers/cascade/warm_start.py",
        "tests/rankers/cascade/test_warm_start.py",
        (
            "torch.from_numpy(label_slots(model.tree)[: base.tree.L])",
            "torch.from_numpy(label_slots(base.tree))",
            "test_old_labels_score_as_before_at_every_resolution",
        ),
        (
            "kept = ours.L >= theirs.L and all(",
            "kept = True or all(",
            "test_a_tree_that_does_not_extend_the_base_is_refused",
        ),
    ),
    *_in(
        "cascadexml/data/splitting.py",
        "tests/data/test_splitting.py",
        (
            'kept = train.filter(pa.array(place == "train"))',
            "kept = train",
            "test_by_hash_every_record_lands_once_and_equal_ids_together",
        ),
        (
            'hashes = id_hashes(train.column("id"), "split")',
            'hashes = id_hashes(train.column("id"), "limit")',
            "test_a_limited_subset_is_split_in_the_usual_shares",
        ),
        (
            'hashes = id_hashes(train.column("id"), "split")',
            "hashes = np.random.default_rng(0).random(train.num_rows)",
            "test_by_hash_a_record_stays_when_others_come_and_the_order_changes",
        ),
        (
            "-ranks))",
            "ranks))",
            "test_by_time_the_newest_are_test_then_dev",
        ),
    ),
    *_in(
        "cascadexml/data/accepted.py",
        "tests/data/test_accepted.py",
        (
            " & _first(table",
            " | _first(table",
            "test_every_id_stands_once_and_the_first_wins",
        ),
        (
            '[hashes < settings.test, hashes < settings.test + settings.dev], ["test", "dev"]',
            '[hashes < settings.dev, hashes < settings.test + settings.dev], ["dev", "test"]',
            "test_the_shares_hold_and_a_changed_share_of_dev_leaves_test_alone",
        ),
        (
            'hashes = id_hashes(ids, "accepted")',
            "hashes = np.random.default_rng(0).random(len(ids))",
            "test_a_record_keeps_its_split_whatever_comes_with_it",
        ),
    ),
    *_in(
        "cascadexml/data/sparse_files.py",
        "tests/data/test_sparse_files.py",
        (
            "ends[0] != 0 or ends[-1] != data.size or (np.diff(ends) < 0).any()",
            "ends[0] != 0 or ends[-1] != data.size",
            "test_arrays_that_are_no_matrix_are_refused",
        ),
        (
            "if found.size and (int(found.min()) < 0 or int(found.max()) > last):",
            "if found.size and int(found.min()) < 0:",
            "test_arrays_that_are_no_matrix_are_refused",
        ),
    ),
    *_in(
        "cascadexml/data/vocabulary.py",
        "tests/data/test_vocabulary.py",
        (
            "ranked = kept + tuple(sorted(set(ids) - known))",
            "ranked = tuple(sorted(known | set(ids)))",
            "test_extending_moves_no_ranked_row",
        ),
        (
            'if digest and document["sha256"] != _digest(content):',
            "if False:",
            "test_tampered_is_refused",
        ),
    ),
    *_in(
        "cascadexml/data/tokens.py",
        "tests/data/test_tokens.py",
        (
            "or offsets[-1] * dtype.itemsize != size",
            "or False",
            "test_inconsistent_content_is_refused_even_with_right_digests",
        ),
        (
            "np.flatnonzero(self.lengths > self.special_tokens)",
            "np.flatnonzero(self.lengths >= self.special_tokens)",
            "tests/rankers/test_contract.py::test_a_text_without_content_gets_no_label",
        ),
        (
            "random = np.random.default_rng([seed, epoch])",
            "random = np.random.default_rng(seed)",
            "test_seed_and_epoch_decide_the_order_and_buckets_save_padding",
        ),
        (
            'digest.update(len(content).to_bytes(8, "little") + content)',
            "digest.update(content)",
            "test_fingerprint_tells_texts_length_and_tokenizer",
        ),
    ),
    *_in(
        "cascadexml/quality/rules.py",
        "tests/quality/test_quality.py",
        (
            "later[np.unique(codes, return_index=True)[1]] = False",
            "later[:] = False",
            "test_the_first_acceptable_record_of_an_id_is_kept",
        ),
        (
            "repeats(records.column(\"id\").filter(pa.array(acceptable)))",
            "repeats(records.column(\"id\"))[acceptable]",
            "test_the_first_acceptable_record_of_an_id_is_kept",
        ),
        (
            "n_chars > settings.max_chars",
            "n_chars >= settings.max_chars",
            "test_records_at_the_bounds_are_kept",
        ),
    ),
    *_in(
        "cascadexml/metrics/at_k.py",
        "tests/metrics/test_metrics.py",
        (
            "ideal_dcg[np.minimum(positives, k)]",
            "ideal_dcg[np.full_like(positives, k)]",
            "test_metrics_equal_scikit_learn",
        ),
        (
            " & (part != NO_LABEL)",
            "",
            "test_places_without_a_label_are_never_hits",
        ),
        (
            "order = np.lexsort((-values, rows))",
            "order = np.lexsort((values, rows))",
            "test_metrics_at_k_equal_their_definitions",
        ),
    ),
    *_in(
        "cascadexml/metrics/propensities.py",
        "tests/metrics/test_metrics.py",
        (
            "(np.log(max(N, 1)) - 1)",
            "np.log(max(N, 1))",
            "test_propensities_equal_the_published_formula",
        ),
    ),
    *_in(
        "cascadexml/metrics/bins.py",
        "tests/metrics/test_metrics.py",
        (
            "(uses > 0) & (uses < torso) & (uses < head)",
            "(uses > 0) & (uses <= torso) & (uses < head)",
            "test_coverage_and_bins_equal_their_definitions",
        ),
    ),
    *_in(
        "cascadexml/metrics/bootstrap.py",
        "tests/metrics/test_metrics.py",
        (
            "np.percentile(figures, [2.5, 97.5], axis=0)",
            "np.percentile(figures, [25, 75], axis=0)",
            "test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say",
        ),
    ),
    *_in(
        "cascadexml/labels/tree.py",
        "tests/labels/test_tree.py",
        (
            "            room[home[label]] -= 1\n",
            "",
            "test_extending_again_and_again_keeps_clusters_as_even_as_extending_once",
        ),
        (
            " or not np.array_equal(np.sort(self.leaf_order), np.arange(self.L))",
            "",
            "test_arrays_that_are_no_tree_are_refused_even_with_right_digests",
        ),
        (
            '[np.argsort(clusters, kind="stable")]',
            '[np.argsort(clusters[::-1], kind="stable")]',
            "test_an_extended_tree_keeps_the_old_labels_and_takes_all_new_ones_in",
        ),
    ),
    *_in(
        "cascadexml/labels/halving.py",
        "tests/labels/test_tree.py",
        (
            "np.random.default_rng([seed, depth, node])",
            "np.random.default_rng([depth, node])",
            "test_same_seed_same_tree_other_seed_other_tree",
        ),
        (
            "depth + 1, 2 * node + i, depths)",
            "depth + 1, node, depths)",
            "test_cosines_alone_halve_as_rows_do",
        ),
        (
            "range(node << below, (node + 1) << below)",
            "range(1 << below)",
            "test_cosines_alone_halve_as_rows_do",
        ),
        (
            "inside += np.where(first[moved], np.float32(1), np.float32(-1)) @ Z[moved]",
            "inside += np.ones(moved.size, dtype=np.float32) @ Z[moved]",
            "test_sums_that_follow_the_labels_that_move_halve_as_sums_made_anew",
        ),
    ),
    *_in(
        "cascadexml/labels/rows.py",
        "tests/labels/test_rows.py",
        (
            "keep[level[rank < room[row[level]]]] = True",
            "keep[level] = True",
            "test_the_largest_of_each_row_are_those_of_a_sort",
        ),
        (
            "if in_place else np.empty_like(rows.data)",
            "if True else np.empty_like(rows.data)",
            "test_unit_rows_equal_the_dense_formula",
        ),
    ),
    *_in(
        "cascadexml/bundle.py",
        "tests/test_bundle.py",
        (
            "if version != self.version:",
            "if version > self.version:",
            "test_a_newer_and_an_older_version_are_refused_by_name",
        ),
        (
            "if digests and sha256_of(file) != entry",
            "if False and sha256_of(file) != entry",
            "test_any_changed_or_missing_byte_is_refused",
        ),
        (
"        yield new\n        replace_path(new, final)\n    finally:\n",
            "        yield new\n    finally:\n        replace_path(new, final)\n",
            "test_an_interrupted_writer_leaves_what_was_there",
        ),
        (
            "    if strangers:\n",
            "    if False:\n",
            "test_strangers_are_refused",
        ),
        (
            'if manifest["files"] != {file: entry for file, entry in covered.items() if file != MANIFEST}:',
            "if False:",
            "test_a_part_must_list_what_the_outer_manifest_lists",
        ),
        (
            "if place.verified or not digests:",
            "if True:",
            "test_a_bundle_that_was_not_hashed_is_hashed_when_it_is_read_for_good",
        ),
    ),
    *_in(
        "cascadexml/rankers/cascade/network.py",
        "tests/rankers/cascade/test_network.py",
        (
            "        if not all_finite(value):\n",
            "        if False:\n",
            "test_weights_that_are_no_numbers_are_refused_by_file_and_tensor",
        ),
    ),
    *_in(
        "cascadexml/rankers/mixture.py",
        "tests/rankers/test_mixture.py",
        (
            "fit_mixture(_some(found, ~mine), right[~mine], uses)",
            "fit_mixture(found, right, uses)",
            "test_a_document_is_judged_by_weights_that_have_not_seen_it",
        ),
        (
            "return _likeliest(_some(found, first), right[first], uses)",
            "return of_all",
            "test_the_weights_are_scikit_learns_for_the_first_places_that_its_weights_for_all_give",
        ),
        (
            "optimize.Bounds([0.0] * free + [-np.inf] * 2,",
            "optimize.Bounds([-np.inf] * (free + 2),",
            "test_no_fitted_weight_is_below_0_though_a_source_is_wrong",
        ),
    ),
    *_in(
        "cascadexml/rankers/blend.py",
        "tests/rankers/test_blend.py",
        (
            "if mixed <= alone[best]:",
            "if False:",
            "test_where_the_mixture_is_no_better_the_best_source_answers",
        ),
        (
            "at = np.searchsorted(found.labels, labels)",
            "at = np.arange(len(labels))",
            "tests/rankers/test_explaining.py::test_shares_are_weight_times_evidence_and_add_up_to_the_scores_log_odds",
        ),
        (
            "return np.zeros(0, dtype=np.int32) if Y is None else Y.indices[Y.indptr[label] : Y.indptr[label + 1]]",
            "return np.arange(0 if Y is None else Y.shape[0], dtype=np.int32)",
            "tests/rankers/test_explaining.py::test_records_carry_the_label_and_are_the_nearest_that_do",
        ),
    ),
    *_in(
        "cascadexml/rankers/brevity.py",
        "tests/rankers/test_brevity.py",
        (
            "np.where(u > 0, special.expit(",
            "np.where(u >= 0, special.expit(",
            "test_no_label_changes_its_place_and_ordinary_texts_keep_theirs",
        ),
        (
            "left[:, -1] -= self.offset * u",
            "left[:, -1] -= self.offset",
            "test_shares_add_up_to_what_is_believed",
        ),
    ),
    *_in(
        "cascadexml/training/ensemble.py",
        "tests/training/test_ensemble.py",
        (
            'group.lead_says((folder / "model").exists(), device)',
            "group.lead_says(False, device)",
            "test_a_member_that_is_done_is_not_trained_again",
        ),
    ),
    *_in(
        "cascadexml/training/fit.py",
        "tests/training/test_ensemble.py",
        (
            "json.dumps(self.curves.kept)",
            "json.dumps([])",
            "test_killed_in_any_member_it_goes_on_there_to_the_same_bytes",
        ),
    ),
    *_in(
        "cascadexml/config/train.py",
        "tests/stages/test_train.py",
        (
            "return [seed + i for i in range(ensemble)]",
            "return [seed for _ in range(ensemble)]",
            "test_two_networks_are_clustered_trained_and_blended",
        ),
    ),
    *_in(
        "cascadexml/rankers/ensemble.py",
        "tests/rankers/test_ensemble.py",
        (
            "np.mean([scores_at(ranking, keys, L) for ranking in some], axis=0)",
            "np.max([scores_at(ranking, keys, L) for ranking in some], axis=0)",
            "test_a_label_s_score_is_the_mean_of_what_the_members_say",
        ),
        (
            'bundles = [FORMATS["cascade"].read(member) for member in members]',
            'bundles = [FORMATS["cascade"].read(member, digests=False) for member in members]',
            "test_members_joined_unloaded_are_the_bytes_that_saving_gives",
        ),
    ),
    *_in(
        "cascadexml/artifact/predecessor.py",
        "tests/artifact/test_artifact.py",
        (
            "if len(places) != members:",
            "if False:",
            "test_a_blend_of_an_ensemble_answers_and_each_of_its_networks_is_found",
        ),
    ),
    *_in(
        "cascadexml/ranking.py",
        "tests/rankers/test_ensemble.py",
        (
            "last = np.where(full, ranking.scores[:, -1:].max(axis=1, initial=0.0), 0.0)",
            "last = np.zeros(len(full))",
            "test_a_label_s_score_is_the_mean_of_what_the_members_say",
        ),
    ),
    *_in(
        "cascadexml/rankers/linear.py",
        "tests/rankers/test_linear.py",
        (
            "jobs = 1 if N * L < _PAIRS_A_PROCESS else os.cpu_count()",
            "jobs, seed = (1, seed) if N * L < _PAIRS_A_PROCESS else (os.cpu_count(), None)",
            "test_other_processes_fit_the_same_bytes",
        ),
    ),
    *_in(
        "cascadexml/rankers/search.py",
        "tests/rankers/test_search.py",
        (
            "bar * (1 - rounding) - adds[enough]",
            "bar * (1 - rounding)",
            "test_common_terms_are_not_read_and_ties_go_to_the_lower_column",
        ),
        (
            "lists.data.min() >= 0 and",
            "",
            "test_what_a_common_term_takes_away_is_reckoned_with",
        ),
        (
            " and lists.has_canonical_format",
            "",
            "test_lists_that_do_not_rise_are_read_whole",
        ),
        (
            "        found = found[sums[found] != 0]\n",
            "",
            "test_weights_of_either_sign_and_biases_count",
        ),
        (
            "return min(near_kth(sums, k), np.inf if self.most is None else self.most)",
            "return near_kth(sums, k)",
            "test_common_terms_are_not_read_and_ties_go_to_the_lower_column",
        ),
    ),
    *_in(
        "cascadexml/rankers/names.py",
        "tests/rankers/test_names.py",
        (
            "weights = idf[indices].astype(np.float32)",
            "weights = np.ones_like(idf[indices], dtype=np.float32)",
            "test_scores_equal_a_count_letter_by_letter",
        ),
        (
            "if not unicodedata.combining(letter)",
            "if True",
            "test_accents_case_and_cognates",
        ),
        (
            "for word in _words_of(name or \"\")",
            "for word in _words_of(str(name))",
            "test_a_name_that_stands_there_whole_scores_one_and_equal_names_alike",
        ),
    ),
    *_in(
        "cascadexml/labels/tfidf.py",
        "tests/labels/test_tfidf.py",
        (
            "(self.ngrams, self.opening), (other.ngrams, other.opening)",
            "self.ngrams, other.ngrams",
            "test_only_those_that_read_every_text_alike_are_the_same",
        ),
        (
            "enough = counts >= min(min_df, _MOST)",
            "enough = counts > min(min_df, _MOST)",
            "test_screened_terms_give_the_same",
        ),
        (
            "_WORD.findall(opened(text, self.opening).lower())",
            "_WORD.findall(text.lower())",
            "test_the_words_of_the_opening_count_twice",
        ),
    ),
    *_in(
        "cascadexml/rankers/cascade/onnx_encoder.py",
        "tests/rankers/test_exporting.py",
        (
            "if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT:",
            "if False:",
            "test_a_foreign_graph_is_refused",
        ),
        (
            "    if domains - DOMAINS:\n",
            "    if False:\n",
            "test_a_foreign_graph_is_refused",
        ),
    ),
    *_in(
        "cascadexml/rankers/exporting.py",
        "tests/rankers/test_exporting.py",
        (
            "            if not (ours - theirs).abs().max() <= TOLERANCE * scale:\n",
            "            if False:\n",
            "test_a_graph_that_gives_other_vectors_is_not_written",
        ),
    ),
    *_in(
        "cascadexml/rankers/quantising.py",
        "tests/rankers/test_quantising.py",
        (
            "axes=[-1], keepdims=1),\n            node(\"ReduceMin\"",
            "keepdims=1),\n            node(\"ReduceMin\"",
            "test_a_token_is_rounded_by_itself test_it_is_the_product_of_rounded_numbers",
        ),
    ),
    *_in(
        "cascadexml/artifact/predecessor.py",
        "tests/artifact/test_exporting.py",
        (
            "    if exported is not None:\n",
            "    if False:\n",
            "test_it_is_no_start_for_training",
        ),
    ),
    *_in(
        "cascadexml/artifact/artifact.py",
        "tests/artifact/test_tamper.py",
        (
            "        _check_meta(found)\n",
            "",
            "test_no_value_of_a_json_file_does_more_than_to_be_refused",
        ),
    ),
    *_in(
        "cascadexml/rankers/cascade/stored.py",
        "tests/artifact/test_tamper.py",
        (
            "        if ours.get(PREFIX + name) != tuple(tensor.shape):",
            "        if False:",
            "test_sizes_are_those_that_the_weights_justify",
        ),
        (
            "if key in known and not _REACHING.search(key)}",
            "}",
            "test_keys_that_would_reach_other_code_are_passed_over",
        ),
    ),
    *_in(
        "cascadexml/rankers/cascade/tokenizer_files.py",
        "tests/artifact/test_tamper.py",
        (
            "    if growth > GROWTH:",
            "    if False:",
            "test_sizes_are_those_that_the_weights_justify",
        ),
    ),
)  # fmt: skip


def copy_tree(target: Path) -> Path:
    """What git would commit of the working tree, with the environment by a link."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPO / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, target / name)
    (target / ".venv").symlink_to(REPO / ".venv")
    return target


def environment(tree: Path) -> dict[str, str]:
    """Processes import from the copy, and leave no compiled file that a later mutant of the same second would be."""
    return {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Run tests in a copy up to the first that fails; pytest's exit code, and what it printed.

    They run in a process of their own, forked from one that has imported nothing of the project.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = PROCESSES.Process(target=_run_tests, args=(tree, list(tests), log))
        process.start()
        process.join(LIMIT_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode, log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


def _run_tests(tree: Path, tests: list[str], log: Path) -> None:
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(tree)
    os.environ.update(environment(tree))
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    import pytest

    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "integration or not integration"]
    sys.exit(int(pytest.main([*options, *tests])))


def check_texts(mutants: Sequence[Mutant], root: Path = REPO) -> list[str]:
    """What is wrong with mutants before any is tried: old texts that do not stand exactly once, tests that are gone."""
    wrong = []
    for mutant in mutants:
        times = (
            (root / mutant.file).read_text(encoding="utf-8").count(mutant.old) if (root / mutant.file).is_file() else 0
        )
        if times != 1:
            wrong.append(f"{mutant}: the old text stands {times} times there, expected once")
        for test in mutant.tests:
            file, _, name = test.partition("::")
            if not (root / file).is_file() or f"def {name}(" not in (root / file).read_text(encoding="utf-8"):
                wrong.append(f"{mutant}: there is no test {test}")
    return wrong


def is_killed(mutant: Mutant, tree: Path) -> tuple[bool, str]:
    """Whether its tests notice it in this copy, which is left as it was; and what they printed."""
    file = tree / mutant.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, printed = run_tests(tree, mutant.tests)
    finally:
        file.write_text(whole, encoding="utf-8")
    return code == FAILED, printed


def try_all(mutants: Sequence[Mutant], jobs: int) -> list[Mutant]:
    """Try every mutant; gives those that survived, or that kept their tests from running."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for job in range(jobs):
            trees.put(copy_tree(Path(scratch) / f"tree-{job}"))
        tree = trees.get()
        where = "import cascadexml, flows, stages; print(cascadexml.__file__, flows.__file__, stages.__file__)"
        found = subprocess.run(
            [sys.executable, "-c", where],
            cwd=scratch,
            env={**os.environ, **environment(tree)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        if not all(Path(path).is_relative_to(tree) for path in found):
            raise SystemExit(f"error: the copy's packages are not those imported: {found}")
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        code, printed = run_tests(tree, tests)
        if code != PASSED:
            raise SystemExit(f"{printed}\nerror: without a mutant a test fails already.")
        print(f"{len(tests)} tests pass without a mutant", flush=True)
        trees.put(tree)

        def attempt(mutant: Mutant) -> bool:
            tree = trees.get()
            begun = time.monotonic()
            try:
                killed, printed = is_killed(mutant, tree)
            finally:
                trees.put(tree)
            word = "killed" if killed else "SURVIVED"
            print(f"{word:8} {time.monotonic() - begun:5.1f} s  {mutant}", flush=True)
            if not killed:
                print("\n".join(f"         | {line}" for line in printed.splitlines()[-15:]), flush=True)
            return killed

        with ThreadPoolExecutor(jobs) as pool:
            killed = list(pool.map(attempt, mutants))
    return [mutant for mutant, dead in zip(mutants, killed, strict=True) if not dead]


def main() -> int:
    """Try the mutants; 1 where one survives or is out of date."""
    parser = argparse.ArgumentParser(prog="python tools/mutants.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="WORD", help="only mutants whose line in the list has this in it")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="copies at work at once (default: 2)")
    parser.add_argument("--list", action="store_true", help="only list them")
    given = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if given.only in str(mutant)]
    if given.list:
        print(*mutants, sep="\n")
        return 0
    # Before torch is imported, which reads it once.
    os.environ["OMP_NUM_THREADS"] = "1"
    PROCESSES.set_forkserver_preload(list(HEAVY))
    wrong = check_texts(mutants)
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    survivors = try_all(mutants, given.jobs)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
