// Generated from core/params.py by `python3 run.py generate`: change that file, not this one.

using System;
using UnityEngine;

namespace Frameloom
{
    /// <summary>How the prompt is enforced; none costs nothing extra.</summary>
    public enum FrameloomGuidance
    {
        None,
        Full,
        OnetimeNegative,
        SelfNegative,
    }

    /// <summary>throughput: stream batch, most frames per second; latency: each frame leaves in its own turn.</summary>
    public enum FrameloomMode
    {
        Throughput,
        Latency,
    }

    /// <summary>img2img repaints the input; txt2img ignores it.</summary>
    public enum FrameloomTask
    {
        Img2img,
        Txt2img,
    }

    /// <summary>Steady pictures: bank reads features of frames before (StreamV2V) and shares what was painted where pieces of the input are found again; engine carries pictures along the client's motion plane, flow along estimated motion.</summary>
    public enum FrameloomTemporal
    {
        Off,
        Bank,
        Engine,
        Flow,
    }

    /// <summary>How the bank takes a new frame: merged into the old ones, or in a queue of whole frames.</summary>
    public enum FrameloomBank
    {
        Merged,
        Fifo,
    }

    /// <summary>What empties the bank: a cut of the input, a new prompt.</summary>
    public enum FrameloomBankReset
    {
        CutAndPrompt,
        Cut,
        Prompt,
        Never,
    }

    /// <summary>Where the last painting is mixed in: in the latent, at no cost, or as a picture, for crisp trails and exact colours.</summary>
    public enum FrameloomFeedbackSpace
    {
        Latent,
        Picture,
    }

    /// <summary>Every live parameter of a host, with its range and default.</summary>
    [Serializable]
    public sealed class FrameloomParams
    {
        private static readonly string[] GuidanceWords = { "none", "full", "onetime-negative", "self-negative" };
        private static readonly string[] ModeWords = { "throughput", "latency" };
        private static readonly string[] TaskWords = { "img2img", "txt2img" };
        private static readonly string[] TemporalWords = { "off", "bank", "engine", "flow" };
        private static readonly string[] BankWords = { "merged", "fifo" };
        private static readonly string[] BankResetWords = { "cut-and-prompt", "cut", "prompt", "never" };
        private static readonly string[] FeedbackSpaceWords = { "latent", "picture" };

        [Tooltip("What the picture should show, and in which style."), TextArea]
        public string prompt = "neon style, red sphere, blue box";

        [Tooltip("A second prompt, which prompt_mix fades to."), TextArea]
        public string promptTo = "";

        [Tooltip("Cross-fade from the prompt (0) to the second prompt (1)."), Range(0f, 1f)]
        public float promptMix = 0f;

        [Tooltip("What to steer away from; used by guidance full and onetime-negative."), TextArea]
        public string negativePrompt = "";

        [Tooltip("How far from the input the picture may go; 1 ignores the input. Stable Diffusion models want 0.4 and more."), Range(0.02f, 1f)]
        public float strength = 0.1f;

        [Tooltip("Denoising steps a frame gets; more is finer and slower."), Range(1, 8)]
        public int steps = 1;

        [Tooltip("Explicit denoising stages on the 50-point grid; empty derives them from strength and steps.")]
        public int[] tIndex = new int[0];

        [Tooltip("How the prompt is enforced; none costs nothing extra.")]
        public FrameloomGuidance guidance = FrameloomGuidance.None;

        [Tooltip("How hard the prompt is enforced; no effect at 1 or below, or with guidance none."), Range(0f, 20f)]
        public float guidanceScale = 1.2f;

        [Tooltip("Weight of the virtual residual noise of residual guidance."), Range(0f, 2f)]
        public float delta = 1f;

        [Tooltip("Noise seed; -1 draws new noise for every frame."), Min(-1)]
        public int seed = 2;

        [Tooltip("A second seed, which seed_mix travels to."), Min(0)]
        public int seedTo = 0;

        [Tooltip("Travels from the noise of the seed (0) to that of the second seed (1); no effect at seed -1."), Range(0f, 1f)]
        public float seedMix = 0f;

        [Tooltip("The noise is the best of so many draws for the first picture after a cut; 1 takes the seed's as it comes. In draws."), Range(1, 16)]
        public int noiseDraws = 1;

        [Tooltip("throughput: stream batch, most frames per second; latency: each frame leaves in its own turn.")]
        public FrameloomMode mode = FrameloomMode.Throughput;

        [Tooltip("img2img repaints the input; txt2img ignores it.")]
        public FrameloomTask task = FrameloomTask.Img2img;

        [Tooltip("Width and height to paint at, or one number for a square; empty: as the host was started. In px.")]
        public int[] size = new int[0];

        [Tooltip("The picture comes out so many times as large as it is painted. In times."), Range(1, 2)]
        public int upscale = 1;

        [Tooltip("Skip frames that look like the last processed one, so that the device can sleep.")]
        public bool similarityFilter = false;

        [Tooltip("Cosine similarity above which frames are skipped, at random, ever more often."), Range(0f, 1f)]
        public float similarityThreshold = 0.98f;

        [Tooltip("Longest run of skipped frames. In frames."), Range(0, 1000)]
        public int similarityMaxSkip = 10;

        [Tooltip("Steady pictures: bank reads features of frames before (StreamV2V) and shares what was painted where pieces of the input are found again; engine carries pictures along the client's motion plane, flow along estimated motion.")]
        public FrameloomTemporal temporal = FrameloomTemporal.Off;

        [Tooltip("How the bank takes a new frame: merged into the old ones, or in a queue of whole frames.")]
        public FrameloomBank bank = FrameloomBank.Merged;

        [Tooltip("Frames that a queue holds. In frames."), Range(1, 4)]
        public int bankFrames = 1;

        [Tooltip("Every so many frames the bank takes one in. In frames."), Range(1, 60)]
        public int bankInterval = 4;

        [Tooltip("How far attention outputs are drawn to those of the bank."), Range(0f, 1f)]
        public float bankFusion = 0.8f;

        [Tooltip("Cosine similarity from which outputs are drawn to the bank."), Range(0f, 1f)]
        public float bankThreshold = 0.98f;

        [Tooltip("Share of the picture that is the one before, piece by piece, where pieces of the input are found again there."), Range(0f, 0.95f)]
        public float bankMatch = 0.45f;

        [Tooltip("Keep the first frame of a take in the bank, in the coarse layers.")]
        public bool bankSink = true;

        [Tooltip("Merged features weigh as much as all that they stand for.")]
        public bool bankSizes = true;

        [Tooltip("What empties the bank: a cut of the input, a new prompt.")]
        public FrameloomBankReset bankReset = FrameloomBankReset.CutAndPrompt;

        [Tooltip("A frame counts as a cut when it differs from the last one by this share of how much two strangers do."), Range(0f, 2f)]
        public float cutThreshold = 0.4f;

        [Tooltip("Frames in one stream batch read one another's features.")]
        public bool batchAttention = false;

        [Tooltip("Share of the picture that is the one before, moved along the motion."), Range(0f, 0.95f)]
        public float motionShare = 0.92f;

        [Tooltip("Share of every stage's estimate that is the one before, moved along the motion; with 0, what comes into view is as single frames have it, to the pixel."), Range(0f, 0.95f)]
        public float motionLatent = 0f;

        [Tooltip("How far the input may differ from the one before, moved, for that to be used. In levels."), Range(1f, 128f)]
        public float motionTolerance = 16f;

        [Tooltip("Sharpens what was moved, against the blur of moving it."), Range(0f, 1f)]
        public float motionSharpen = 0.06f;

        [Tooltip("The model that paints: as started, embedded, or one of the host's folder of models (--models), by its name."), TextArea]
        public string model = "as started";

        [Tooltip("Noise moves with the scene, so that texture does not stick to the screen.")]
        public bool motionNoise = false;

        [Tooltip("Do not compute again what is unchanged, for cameras that stand still; a card computes everything.")]
        public bool reuse = false;

        [Tooltip("How far an input may differ, on average over a latent cell, to count as unchanged; 0 for not at all. In levels."), Range(0f, 32f)]
        public float reuseTolerance = 4f;

        [Tooltip("Repaint only where the client's mask plane is white; a frame without one is repainted as a whole.")]
        public bool masked = false;

        [Tooltip("Share of the incoming picture that is the last painting, moved as the next parameters say."), Range(0f, 0.95f)]
        public float feedback = 0f;

        [Tooltip("Where the last painting is mixed in: in the latent, at no cost, or as a picture, for crisp trails and exact colours.")]
        public FrameloomFeedbackSpace feedbackSpace = FrameloomFeedbackSpace.Latent;

        [Tooltip("Zoom of the last painting, per frame."), Range(0.5f, 2f)]
        public float feedbackZoom = 1f;

        [Tooltip("Turn of the last painting, counter-clockwise, per frame. In degrees."), Range(-45f, 45f)]
        public float feedbackRotate = 0f;

        [Tooltip("Move of the last painting to the right, in widths, per frame."), Range(-0.5f, 0.5f)]
        public float feedbackX = 0f;

        [Tooltip("Move of the last painting upwards, in heights, per frame."), Range(-0.5f, 0.5f)]
        public float feedbackY = 0f;

        [Tooltip("Turn of the last painting's colours, red towards green, per frame. In degrees."), Range(-180f, 180f)]
        public float feedbackHue = 0f;

        [Tooltip("The last painting's colours so many times as far from grey, per frame. In times."), Range(0f, 2f)]
        public float feedbackSaturation = 1f;

        [Tooltip("The last painting so many times as bright, per frame; trails fade to black below 1. In times."), Range(0.5f, 1.5f)]
        public float feedbackBrightness = 1f;

        [Tooltip("Strength of the first ControlNet (--control, --controls)."), Range(0f, 2f)]
        public float control1 = 1f;

        [Tooltip("Share of the steps before those of the first ControlNet (--control, --controls)."), Range(0f, 1f)]
        public float control1Start = 0f;

        [Tooltip("Share of the steps after which there are none of the first ControlNet (--control, --controls)."), Range(0f, 1f)]
        public float control1End = 1f;

        [Tooltip("Strength of the second ControlNet (--control, --controls)."), Range(0f, 2f)]
        public float control2 = 1f;

        [Tooltip("Share of the steps before those of the second ControlNet (--control, --controls)."), Range(0f, 1f)]
        public float control2Start = 0f;

        [Tooltip("Share of the steps after which there are none of the second ControlNet (--control, --controls)."), Range(0f, 1f)]
        public float control2End = 1f;

        [Tooltip("The first ControlNet: as started, none, or one of the host's folder of them (--controls), by its name."), TextArea]
        public string controlNet1 = "as started";

        [Tooltip("The second ControlNet: as started, none, or one of the host's folder of them (--controls), by its name."), TextArea]
        public string controlNet2 = "as started";

        [Tooltip("Weight of the first LoRA (--lora, --loras)."), Range(-2f, 2f)]
        public float lora1 = 1f;

        [Tooltip("Weight of the second LoRA (--lora, --loras)."), Range(-2f, 2f)]
        public float lora2 = 1f;

        [Tooltip("Weight of the third LoRA (--lora, --loras)."), Range(-2f, 2f)]
        public float lora3 = 1f;

        [Tooltip("Weight of the fourth LoRA (--lora, --loras)."), Range(-2f, 2f)]
        public float lora4 = 1f;

        [Tooltip("The first LoRA: as started, none, or one of the host's folder of them (--loras), by its name."), TextArea]
        public string loraFile1 = "as started";

        [Tooltip("The second LoRA: as started, none, or one of the host's folder of them (--loras), by its name."), TextArea]
        public string loraFile2 = "as started";

        [Tooltip("The third LoRA: as started, none, or one of the host's folder of them (--loras), by its name."), TextArea]
        public string loraFile3 = "as started";

        [Tooltip("The fourth LoRA: as started, none, or one of the host's folder of them (--loras), by its name."), TextArea]
        public string loraFile4 = "as started";

        [Tooltip("The picture that the model is shown beside the prompt: as started, or by its name one that the host was given (--reference)."), TextArea]
        public string reference = "as started";

        [Tooltip("How much the reference picture counts beside the prompt, where the host has an IP-Adapter (--ip-adapter)."), Range(0f, 1.5f)]
        public float referenceScale = 0.6f;

        [Tooltip("Hold the last picture and let the device sleep.")]
        public bool paused = false;

        public void AddAll(OscBundle to)
        {
            to.Add("/prompt", prompt);
            to.Add("/prompt_to", promptTo);
            to.Add("/prompt_mix", promptMix);
            to.Add("/negative_prompt", negativePrompt);
            to.Add("/strength", strength);
            to.Add("/steps", steps);
            to.Add("/t_index", tIndex);
            to.Add("/guidance", GuidanceWords[(int)guidance]);
            to.Add("/guidance_scale", guidanceScale);
            to.Add("/delta", delta);
            to.Add("/seed", seed);
            to.Add("/seed_to", seedTo);
            to.Add("/seed_mix", seedMix);
            to.Add("/noise_draws", noiseDraws);
            to.Add("/mode", ModeWords[(int)mode]);
            to.Add("/task", TaskWords[(int)task]);
            to.Add("/size", size);
            to.Add("/upscale", upscale);
            to.Add("/similarity_filter", similarityFilter);
            to.Add("/similarity_threshold", similarityThreshold);
            to.Add("/similarity_max_skip", similarityMaxSkip);
            to.Add("/temporal", TemporalWords[(int)temporal]);
            to.Add("/bank", BankWords[(int)bank]);
            to.Add("/bank_frames", bankFrames);
            to.Add("/bank_interval", bankInterval);
            to.Add("/bank_fusion", bankFusion);
            to.Add("/bank_threshold", bankThreshold);
            to.Add("/bank_match", bankMatch);
            to.Add("/bank_sink", bankSink);
            to.Add("/bank_sizes", bankSizes);
            to.Add("/bank_reset", BankResetWords[(int)bankReset]);
            to.Add("/cut_threshold", cutThreshold);
            to.Add("/batch_attention", batchAttention);
            to.Add("/motion_share", motionShare);
            to.Add("/motion_latent", motionLatent);
            to.Add("/motion_tolerance", motionTolerance);
            to.Add("/motion_sharpen", motionSharpen);
            to.Add("/model", model);
            to.Add("/motion_noise", motionNoise);
            to.Add("/reuse", reuse);
            to.Add("/reuse_tolerance", reuseTolerance);
            to.Add("/masked", masked);
            to.Add("/feedback", feedback);
            to.Add("/feedback_space", FeedbackSpaceWords[(int)feedbackSpace]);
            to.Add("/feedback_zoom", feedbackZoom);
            to.Add("/feedback_rotate", feedbackRotate);
            to.Add("/feedback_x", feedbackX);
            to.Add("/feedback_y", feedbackY);
            to.Add("/feedback_hue", feedbackHue);
            to.Add("/feedback_saturation", feedbackSaturation);
            to.Add("/feedback_brightness", feedbackBrightness);
            to.Add("/control_1", control1);
            to.Add("/control_1_start", control1Start);
            to.Add("/control_1_end", control1End);
            to.Add("/control_2", control2);
            to.Add("/control_2_start", control2Start);
            to.Add("/control_2_end", control2End);
            to.Add("/control_net_1", controlNet1);
            to.Add("/control_net_2", controlNet2);
            to.Add("/lora_1", lora1);
            to.Add("/lora_2", lora2);
            to.Add("/lora_3", lora3);
            to.Add("/lora_4", lora4);
            to.Add("/lora_file_1", loraFile1);
            to.Add("/lora_file_2", loraFile2);
            to.Add("/lora_file_3", loraFile3);
            to.Add("/lora_file_4", loraFile4);
            to.Add("/reference", reference);
            to.Add("/reference_scale", referenceScale);
            to.Add("/paused", paused);
        }

        /// <summary>Add what differs from what was `sent`.</summary>
        public void AddChanges(FrameloomParams sent, OscBundle to)
        {
            if (prompt != sent.prompt)
                to.Add("/prompt", prompt);
            if (promptTo != sent.promptTo)
                to.Add("/prompt_to", promptTo);
            if (promptMix != sent.promptMix)
                to.Add("/prompt_mix", promptMix);
            if (negativePrompt != sent.negativePrompt)
                to.Add("/negative_prompt", negativePrompt);
            if (strength != sent.strength)
                to.Add("/strength", strength);
            if (steps != sent.steps)
                to.Add("/steps", steps);
            if (!Same(tIndex, sent.tIndex))
                to.Add("/t_index", tIndex);
            if (guidance != sent.guidance)
                to.Add("/guidance", GuidanceWords[(int)guidance]);
            if (guidanceScale != sent.guidanceScale)
                to.Add("/guidance_scale", guidanceScale);
            if (delta != sent.delta)
                to.Add("/delta", delta);
            if (seed != sent.seed)
                to.Add("/seed", seed);
            if (seedTo != sent.seedTo)
                to.Add("/seed_to", seedTo);
            if (seedMix != sent.seedMix)
                to.Add("/seed_mix", seedMix);
            if (noiseDraws != sent.noiseDraws)
                to.Add("/noise_draws", noiseDraws);
            if (mode != sent.mode)
                to.Add("/mode", ModeWords[(int)mode]);
            if (task != sent.task)
                to.Add("/task", TaskWords[(int)task]);
            if (!Same(size, sent.size))
                to.Add("/size", size);
            if (upscale != sent.upscale)
                to.Add("/upscale", upscale);
            if (similarityFilter != sent.similarityFilter)
                to.Add("/similarity_filter", similarityFilter);
            if (similarityThreshold != sent.similarityThreshold)
                to.Add("/similarity_threshold", similarityThreshold);
            if (similarityMaxSkip != sent.similarityMaxSkip)
                to.Add("/similarity_max_skip", similarityMaxSkip);
            if (temporal != sent.temporal)
                to.Add("/temporal", TemporalWords[(int)temporal]);
            if (bank != sent.bank)
                to.Add("/bank", BankWords[(int)bank]);
            if (bankFrames != sent.bankFrames)
                to.Add("/bank_frames", bankFrames);
            if (bankInterval != sent.bankInterval)
                to.Add("/bank_interval", bankInterval);
            if (bankFusion != sent.bankFusion)
                to.Add("/bank_fusion", bankFusion);
            if (bankThreshold != sent.bankThreshold)
                to.Add("/bank_threshold", bankThreshold);
            if (bankMatch != sent.bankMatch)
                to.Add("/bank_match", bankMatch);
            if (bankSink != sent.bankSink)
                to.Add("/bank_sink", bankSink);
            if (bankSizes != sent.bankSizes)
                to.Add("/bank_sizes", bankSizes);
            if (bankReset != sent.bankReset)
                to.Add("/bank_reset", BankResetWords[(int)bankReset]);
            if (cutThreshold != sent.cutThreshold)
                to.Add("/cut_threshold", cutThreshold);
            if (batchAttention != sent.batchAttention)
                to.Add("/batch_attention", batchAttention);
            if (motionShare != sent.motionShare)
                to.Add("/motion_share", motionShare);
            if (motionLatent != sent.motionLatent)
                to.Add("/motion_latent", motionLatent);
            if (motionTolerance != sent.motionTolerance)
                to.Add("/motion_tolerance", motionTolerance);
            if (motionSharpen != sent.motionSharpen)
                to.Add("/motion_sharpen", motionSharpen);
            if (model != sent.model)
                to.Add("/model", model);
            if (motionNoise != sent.motionNoise)
                to.Add("/motion_noise", motionNoise);
            if (reuse != sent.reuse)
                to.Add("/reuse", reuse);
            if (reuseTolerance != sent.reuseTolerance)
                to.Add("/reuse_tolerance", reuseTolerance);
            if (masked != sent.masked)
                to.Add("/masked", masked);
            if (feedback != sent.feedback)
                to.Add("/feedback", feedback);
            if (feedbackSpace != sent.feedbackSpace)
                to.Add("/feedback_space", FeedbackSpaceWords[(int)feedbackSpace]);
            if (feedbackZoom != sent.feedbackZoom)
                to.Add("/feedback_zoom", feedbackZoom);
            if (feedbackRotate != sent.feedbackRotate)
                to.Add("/feedback_rotate", feedbackRotate);
            if (feedbackX != sent.feedbackX)
                to.Add("/feedback_x", feedbackX);
            if (feedbackY != sent.feedbackY)
                to.Add("/feedback_y", feedbackY);
            if (feedbackHue != sent.feedbackHue)
                to.Add("/feedback_hue", feedbackHue);
            if (feedbackSaturation != sent.feedbackSaturation)
                to.Add("/feedback_saturation", feedbackSaturation);
            if (feedbackBrightness != sent.feedbackBrightness)
                to.Add("/feedback_brightness", feedbackBrightness);
            if (control1 != sent.control1)
                to.Add("/control_1", control1);
            if (control1Start != sent.control1Start)
                to.Add("/control_1_start", control1Start);
            if (control1End != sent.control1End)
                to.Add("/control_1_end", control1End);
            if (control2 != sent.control2)
                to.Add("/control_2", control2);
            if (control2Start != sent.control2Start)
                to.Add("/control_2_start", control2Start);
            if (control2End != sent.control2End)
                to.Add("/control_2_end", control2End);
            if (controlNet1 != sent.controlNet1)
                to.Add("/control_net_1", controlNet1);
            if (controlNet2 != sent.controlNet2)
                to.Add("/control_net_2", controlNet2);
            if (lora1 != sent.lora1)
                to.Add("/lora_1", lora1);
            if (lora2 != sent.lora2)
                to.Add("/lora_2", lora2);
            if (lora3 != sent.lora3)
                to.Add("/lora_3", lora3);
            if (lora4 != sent.lora4)
                to.Add("/lora_4", lora4);
            if (loraFile1 != sent.loraFile1)
                to.Add("/lora_file_1", loraFile1);
            if (loraFile2 != sent.loraFile2)
                to.Add("/lora_file_2", loraFile2);
            if (loraFile3 != sent.loraFile3)
                to.Add("/lora_file_3", loraFile3);
            if (loraFile4 != sent.loraFile4)
                to.Add("/lora_file_4", loraFile4);
            if (reference != sent.reference)
                to.Add("/reference", reference);
            if (referenceScale != sent.referenceScale)
                to.Add("/reference_scale", referenceScale);
            if (paused != sent.paused)
                to.Add("/paused", paused);
        }

        public void CopyFrom(FrameloomParams other)
        {
            prompt = other.prompt;
            promptTo = other.promptTo;
            promptMix = other.promptMix;
            negativePrompt = other.negativePrompt;
            strength = other.strength;
            steps = other.steps;
            tIndex = (int[])other.tIndex.Clone();
            guidance = other.guidance;
            guidanceScale = other.guidanceScale;
            delta = other.delta;
            seed = other.seed;
            seedTo = other.seedTo;
            seedMix = other.seedMix;
            noiseDraws = other.noiseDraws;
            mode = other.mode;
            task = other.task;
            size = (int[])other.size.Clone();
            upscale = other.upscale;
            similarityFilter = other.similarityFilter;
            similarityThreshold = other.similarityThreshold;
            similarityMaxSkip = other.similarityMaxSkip;
            temporal = other.temporal;
            bank = other.bank;
            bankFrames = other.bankFrames;
            bankInterval = other.bankInterval;
            bankFusion = other.bankFusion;
            bankThreshold = other.bankThreshold;
            bankMatch = other.bankMatch;
            bankSink = other.bankSink;
            bankSizes = other.bankSizes;
            bankReset = other.bankReset;
            cutThreshold = other.cutThreshold;
            batchAttention = other.batchAttention;
            motionShare = other.motionShare;
            motionLatent = other.motionLatent;
            motionTolerance = other.motionTolerance;
            motionSharpen = other.motionSharpen;
            model = other.model;
            motionNoise = other.motionNoise;
            reuse = other.reuse;
            reuseTolerance = other.reuseTolerance;
            masked = other.masked;
            feedback = other.feedback;
            feedbackSpace = other.feedbackSpace;
            feedbackZoom = other.feedbackZoom;
            feedbackRotate = other.feedbackRotate;
            feedbackX = other.feedbackX;
            feedbackY = other.feedbackY;
            feedbackHue = other.feedbackHue;
            feedbackSaturation = other.feedbackSaturation;
            feedbackBrightness = other.feedbackBrightness;
            control1 = other.control1;
            control1Start = other.control1Start;
            control1End = other.control1End;
            control2 = other.control2;
            control2Start = other.control2Start;
            control2End = other.control2End;
            controlNet1 = other.controlNet1;
            controlNet2 = other.controlNet2;
            lora1 = other.lora1;
            lora2 = other.lora2;
            lora3 = other.lora3;
            lora4 = other.lora4;
            loraFile1 = other.loraFile1;
            loraFile2 = other.loraFile2;
            loraFile3 = other.loraFile3;
            loraFile4 = other.loraFile4;
            reference = other.reference;
            referenceScale = other.referenceScale;
            paused = other.paused;
        }

        private static bool Same(int[] one, int[] other)
        {
            bool same = one.Length == other.Length;
            for (int i = 0; i < one.Length && same; i++)
                same = one[i] == other[i];
            return same;
        }
    }
}
