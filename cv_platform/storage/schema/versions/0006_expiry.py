"""Terms, quotas, drained messages and what reconciling found."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SQL = """
-- What a hold put off: done when no hold covers the clip any more.
ALTER TABLE cv.clips ADD COLUMN withdrawal_due boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN cv.clips.withdrawal_due IS 'quarantined while held: what was made of it is taken back after the hold';
CREATE INDEX clips_withdrawal_due ON cv.clips (clip_id) WHERE withdrawal_due;
ALTER TABLE cv.stages ADD COLUMN redo_after_hold boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN cv.stages.redo_after_hold IS 'a hold keeps what it made before; it is made anew after the hold';
CREATE INDEX stages_redo_after_hold ON cv.stages (clip_id) WHERE redo_after_hold;

-- What expiry looks for: few rows, whatever the ledger's age.
CREATE INDEX clips_with_raw ON cv.clips (received_at) WHERE raw_deleted_at IS NULL;
CREATE INDEX stages_with_frames ON cv.stages (finished_at)
    WHERE stage = 'decoded_frames' AND output_key IS NOT NULL AND output_deleted_at IS NULL;

ALTER TABLE cv.garbage ADD COLUMN only_etags text[];
COMMENT ON COLUMN cv.garbage.only_etags IS 'an upload key: another content may have come under it, which must stay';
"""


def upgrade() -> None:
    execute_script(SQL)
